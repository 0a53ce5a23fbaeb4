"""Names are completed in the shell, as bash calls the command."""

import pytest
from typer.testing import CliRunner

from carrara.cli._main import app

TYPED = {
    "carrara ben": ["bench"],
    "carrara bench cqt-mel-s": ["cqt-mel-small"],
    "carrara bench noise -t pebble/ke": ["pebble/key"],
    "carrara bench noise -t pebble/pitch,pebble/ke": ["pebble/pitch,pebble/key"],
    "carrara bench noise --suite pebble-": ["pebble-2"],
    "carrara bench noise -p semi": ["semi-constrained"],
    "carrara embed -e mf": ["mfcc"],
    "carrara show gtzan/b": ["gtzan/beats", "gtzan/beats-v2"],
    "carrara download gtz": ["gtzan"],
    "carrara check gtz": ["gtzan"],
    "carrara import choi": ["choi"],
    "carrara pretrain contr": ["contrastive"],
    "carrara ls rec": ["recipes"],
    "carrara download no-such": [],
}


@pytest.mark.parametrize("line", TYPED)
def test_names_are_completed(line):
    words = line.split()
    environment = {"_CARRARA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = CliRunner().invoke(app, [], prog_name="carrara", env=environment)
    assert done.exit_code == 0 and done.stdout.split() == TYPED[line], done.output
