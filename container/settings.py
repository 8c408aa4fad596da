"""Where the program reads and writes, from its arguments or the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

API_METHODS = ("exec", "invoke")
PORT = 4743


@dataclass(frozen=True)
class Settings:
    """One run of the program."""

    api: str
    input: Path
    output: Path
    model: Path
    port: int
    device: str | None
    fast: bool
    pattern: str | None
    names: str | None


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from the command line; the environment of the image gives the defaults."""
    env = os.environ.get
    parser = argparse.ArgumentParser(
        prog="container",
        description="Predicts the case in /input (Grand Challenge sockets) or every scan of /input (a folder).",
    )
    parser.add_argument("--api", choices=API_METHODS, default=env("API_METHOD", "exec"), help="once, or as a server")
    parser.add_argument("--input-folder", type=Path, default=Path(env("INPUT_PATH", "/input")))
    parser.add_argument("--output-folder", type=Path, default=Path(env("OUTPUT_PATH", "/output")))
    parser.add_argument("--model", type=Path, default=Path(env("MODEL_PATH", "/opt/ml/model")), help="unpacked package")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--device", help="cpu, cuda or cuda:N; by default cuda where there is one")
    parser.add_argument("--fast", action="store_true", help="no mirroring and a larger step")
    parser.add_argument("--pattern", help="folder of scans: files to take, such as {case}_hrT2.nii.gz")
    parser.add_argument("--output", help="folder of scans: names of the masks, such as {case}_Label.nii.gz")
    args = parser.parse_args(arguments)
    if args.api not in API_METHODS:
        parser.error(f"API_METHOD={args.api}: one of {', '.join(API_METHODS)} is needed")
    return Settings(
        args.api,
        args.input_folder,
        args.output_folder,
        args.model,
        args.port,
        args.device,
        args.fast,
        args.pattern,
        args.output,
    )
