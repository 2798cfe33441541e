"""Builds the wheel, checks what is in it, and imports it where the sources are not."""

import pathlib
import subprocess
import sys
import tempfile
import zipfile


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "."]
        subprocess.run([*build, "--wheel-dir", folder], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        check_names(names)
        code = "import jaxla; print(jaxla.__version__, jaxla.__file__)"
        # -P and the wheel in front: not the sources in the working directory.
        result = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={"PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"},
            check=True,
            capture_output=True,
            text=True,
        )
    version, file = result.stdout.split(maxsplit=1)
    if wheel.name not in file or f"-{version}-" not in wheel.name:
        sys.exit(f"imported {version} from {file} instead of {wheel.name}")
    print(f"{wheel.name}: {len(names)} files")


def check_names(names: list[str]) -> None:
    sources = {str(path) for path in pathlib.Path("jaxla").rglob("*.py")}
    sources.add("jaxla/py.typed")
    packed = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    if packed != sources:
        sys.exit(f"the wheel and jaxla/ differ in {sorted(packed ^ sources)}")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        sys.exit("the wheel has no LICENSE")


if __name__ == "__main__":
    main()
