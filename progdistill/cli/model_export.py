"""`progdistill export`: a checkpoint written for other programs, with a model card."""

import argparse
from pathlib import Path
from typing import get_args

from progdistill.api import Model
from progdistill.cli.common import (
    add_guidance_scale_argument,
    add_json_argument,
    add_store_argument,
    check_output,
    print_json,
    store_of,
    writing,
)
from progdistill.errors import UsageError
from progdistill.models.export import ExportFormat


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "write a checkpoint for other programs, with a model card"
    parser = subparsers.add_parser("export", help=text, description=text)
    parser.add_argument("reference", metavar="REF", help="id or prefix, alias, or Flow/run/steps")
    parser.add_argument("--format", required=True, choices=get_args(ExportFormat))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder, new or empty")
    add_guidance_scale_argument(parser, "guidance scale to build into a guided student")
    add_store_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    if args.guidance_scale is not None and args.format != "diffusers":
        raise UsageError("--guidance-scale is for --format diffusers; in other formats it stays an input")
    model = Model(store_of(args), args.reference)
    check_output("--out", args.out, folder=True)
    with writing("--out", args.out):
        built_in = model.export(args.out, args.format, guidance_scale=args.guidance_scale)
    if args.json:
        named = {"checkpoint": model.id, "format": args.format, "out": str(args.out)}
        print_json({**named, "guidance_scale": built_in})
    else:
        guided = "" if built_in is None else f" with guidance scale {built_in:g} built in"
        print(f"{args.out}: {model.id[:12]} as {args.format}{guided}; README.md there shows how to use it")
    return 0
