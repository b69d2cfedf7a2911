"""The pins of requirements.lock in, the three locks with the hashes of all files they allow out.

Edit a pin (``name==version``) in requirements.lock, then ``make lock``; it needs uv (``pip install
uv``) and the network. Hashes are those that the indexes publish, of wheels for Linux on x86-64 and
ARM, CPython 3.11 to 3.14; of the source archive only where there is no such wheel.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHONS = range(11, 15)


def resolve(requirements: Iterable[str], *options: str) -> dict[str, dict[str, Any]]:
    """Package to its entry in the pylock.toml that uv makes of some requirements."""
    with tempfile.TemporaryDirectory() as folder:
        source, lock = Path(folder, "requirements.in"), Path(folder, "pylock.toml")
        source.write_text("\n".join(requirements))
        command = ["uv", "pip", "compile", "--quiet", "--no-config", "--universal", *options]
        command += ["--python-version", f"3.{PYTHONS[0]}", "--format", "pylock.toml"]
        try:
            subprocess.run([*command, str(source), "-o", str(lock)], check=True)
        except FileNotFoundError:
            sys.exit("uv is needed for this and was not found: pip install uv")
        except subprocess.CalledProcessError:
            sys.exit("uv could not resolve the pins; see above. No lock was changed.")
        packages = tomllib.loads(lock.read_text())["packages"]
    return {canonicalize_name(package["name"]): package for package in packages}


def fits(wheel: str) -> bool:
    """Whether a wheel runs on the platforms that the locks are for."""
    return any(
        (tag.platform == "any" or re.fullmatch(r"manylinux\w+_(x86_64|aarch64)", tag.platform))
        and (
            re.fullmatch(r"py(2\.)?3", tag.interpreter)
            or tag.interpreter in {f"{kind}3{minor}" for kind in ("cp", "py") for minor in PYTHONS}
            or tag.abi == "abi3"
        )
        and not re.fullmatch(r"cp\d+t", tag.abi)
        for tag in parse_wheel_filename(wheel)[3]
    )


def hashes(package: dict[str, Any]) -> list[str]:
    """SHA-256 of the files of a package that may be installed."""
    named = [(unquote(w["url"].rsplit("/", 1)[-1]), w) for w in package.get("wheels", [])]
    files = [wheel for name, wheel in named if fits(name)] or [package["sdist"]]
    return sorted(file["hashes"]["sha256"] for file in files)


def write(path: Path, pins: dict[str, tuple[str, list[str]]]) -> None:
    """Replace the pins of a lock, keeping the comment that it begins with."""
    lines = path.read_text().splitlines() if path.is_file() else []
    lines = [line for line in lines if line.startswith(("#", "--"))]
    for name, (version, allowed) in sorted(pins.items()):
        entry = [f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in allowed)]
        lines.append(" \\\n    ".join(entry))
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write requirements.lock, requirements-cpu.lock and requirements-cuda.lock."""
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^[\w.-]+==[^\s;\\]+", text, flags=re.MULTILINE)
    locked = resolve(pins, "--no-deps")
    everything = {name: (entry["version"], hashes(entry)) for name, entry in locked.items()}
    torch = everything["torch"][0]
    (cpu,) = resolve([f"torch=={torch}+cpu"], "--no-deps", "--default-index", CPU_INDEX).values()
    everything["torch"] = (torch, sorted({*everything["torch"][1], *hashes(cpu)}))
    linux = "sys_platform == 'linux' and platform_machine == 'x86_64'"
    cuda = resolve([f"{pin} ; {linux}" for pin in pins])
    added = {n: (e["version"], hashes(e)) for n, e in cuda.items() if n not in everything}
    write(ROOT / "requirements.lock", everything)
    write(ROOT / "requirements-cpu.lock", {"torch": (f"{torch}+cpu", hashes(cpu))})
    write(ROOT / "requirements-cuda.lock", added)


if __name__ == "__main__":
    main()
