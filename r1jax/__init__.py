"""DeepSeek-R1, reproduced in JAX and Flax."""

__version__ = '0.1.0'
