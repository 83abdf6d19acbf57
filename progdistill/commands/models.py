"""`progdistill export` and `progdistill import`: models to and from other programs and other stores."""

import argparse

from progdistill.commands import model_export, model_import


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both verbs."""
    model_export.add_parser(subparsers)
    model_import.add_parser(subparsers)
