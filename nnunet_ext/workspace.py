"""A folder with nnU-Net's three folders and a log, in which commands run as a user would type them.

The demo and the benchmark tables are made of such commands, so what they show is what a user can do.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nnunet_ext.environment import FOLDERS
from nnunet_ext.errors import StageError
from nnunet_ext.files import make_folder
from nnunet_ext.paths import trainer_folder


def run_logged(words: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> None:
    """Run one command and append its line and its output to a log.

    Raises:
        StageError: when it fails; names the command, the exit code and the log.
    """
    # Commands are found beside the interpreter first, so that no activated environment is needed.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    make_folder(log_file.parent)
    with log_file.open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(words)}\n")
        log.flush()
        done = subprocess.run(
            words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment, "PATH": path}, check=False
        )
    if done.returncode:
        raise StageError(f"{shlex.join(words)}: ended with exit code {done.returncode}, its output is in {log_file}")


class Workspace:
    """Runs commands with nnU-Net's variables set to folders below `root`.

    Args:
        root: made if missing; holds raw, preprocessed, results, log.txt and the marks of finished commands.
        say: where the command lines go that a person should see.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root = root.expanduser().resolve()
        self.log = self.root / "log.txt"
        self.say = say
        self.variables = {name: str(self.root / folder) for name, folder in FOLDERS.items()}
        self.variables["nnUNet_extTrainer"] = str(trainer_folder())
        # nnU-Net starts 8 processes for validation by default, each with its own copy of torch.
        self.variables["nnUNet_def_n_proc"] = os.environ.get("nnUNet_def_n_proc", "2")
        for folder in (*FOLDERS.values(), ".done"):
            make_folder(self.root / folder)

    def run(self, *command: str | Path | int) -> float:
        """Run one command, append its output to the log and return the seconds it took.

        Raises:
            StageError: when it fails; names the command, the exit code and the log.
        """
        words = [str(word) for word in command]
        self.say(f"$ {shlex.join(words)}")
        start = time.monotonic()
        run_logged(words, self.log, self.variables)
        return time.monotonic() - start

    def once(self, name: str, *command: str | Path | int, resume: Sequence[str] = ()) -> None:
        """Run a command unless the very same one has finished before under this name.

        `resume` are further words that make it go on where it was interrupted; they do not make it another command.
        """
        mark = self.root / ".done" / name
        line = shlex.join(str(word) for word in command)
        if mark.exists() and mark.read_text(encoding="utf-8") == line:
            return
        self.run(*command, *resume)
        mark.write_text(line, encoding="utf-8")
