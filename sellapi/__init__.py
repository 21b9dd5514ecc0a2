"""sellapi: an OpenAI-compatible gateway that sells access for prepaid credits."""

__all__ = ["__version__"]

__version__ = "0.1.0"
