"""`python -m jaxla`: trains a model on real data with Shampoo and with AdamW."""

from jaxla._demo import main


if __name__ == "__main__":
    raise SystemExit(main())
