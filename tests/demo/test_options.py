import pytest

from jaxla._demo import main
from jaxla._demo._options import Options, parse


BAD = {
    ("--task", "imagenet"): "invalid choice: 'imagenet'",
    ("--optimizers", "adamw", "adagard"): "invalid choice: 'adagard'",
    ("--batch-sizes", "128", "0"): "expected a positive integer; got '0'.",
    ("--batch-sizes", "1.5"): "expected a positive integer; got '1.5'.",
    ("--steps", "-3"): "expected a positive integer; got '-3'.",
    ("--seeds", "none"): "expected a positive integer; got 'none'.",
    ("--seed", "-1"): "expected an integer from 0 to 2147483647; got '-1'.",
    ("--budget", "nan"): "expected a positive number of seconds; got 'nan'.",
    ("--budget", "0"): "expected a positive number of seconds; got '0'.",
    ("--data", "a.npz", "--task", "digits"): "exclude each other",
    ("--speed", "9"): "unrecognized arguments: --speed 9",
}


@pytest.mark.parametrize("arguments", BAD)
def test_a_mistake_is_told_in_a_sentence(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    out, error = capsys.readouterr()
    assert exit.value.code == 2
    assert BAD[arguments] in error
    assert error.count("\n") == 1
    assert not out


def test_help(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    out, _ = capsys.readouterr()
    assert exit.value.code == 0
    for name in ("task", "data", "optimizers", "batch-sizes", "steps", "seed", "seeds"):
        assert f"--{name}" in out
    assert "--budget" in out
    assert "--out" in out


def test_defaults_and_repetitions():
    assert parse([]) == Options()
    given = parse(["--optimizers", "sgd", "muon", "sgd", "--batch-sizes", "8", "8"])
    assert given.optimizers == ("sgd", "muon")
    assert given.batch_sizes == (8,)
    assert (given.seed, given.seeds, given.task) == (0, 3, "mnist")


def test_steps():
    assert [Options().steps_of(size) for size in (1, 128, 1000, 10**6)] == [
        1000,
        300,
        110,
        50,
    ]
    assert Options(steps=7).steps_of(128) == 7
