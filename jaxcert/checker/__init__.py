"""An independent check of robustness certificates, by numpy and the standard library.

    python jaxcert/checker PATH...       jaxcert and JAX need not be installed
    python -m jaxcert.checker PATH...    the same

    from jaxcert.checker.check import check_certificate

It shares no code with the search that found what it checks; README.md beside this file
says what has to be believed, and the first lines of `network.py` and `boxes.py` what is
in the files.
"""

# No imports: `__main__` must come before numpy, whose threads it limits.

if __name__ == "__main__":
    raise SystemExit("a part of the checker; run: python jaxcert/checker PATH...")
