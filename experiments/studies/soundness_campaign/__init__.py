"""Attacks on the soundness of jaxcert itself."""
