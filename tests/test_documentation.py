"""What README.md and docs/ show runs, in small; of what would take hours or a pod the flags are right."""

import argparse
import dataclasses
import glob
import itertools
import json
import re
import runpy
import shlex
import shutil
import sys
import types
from pathlib import Path

import documentation_helpers as shown
import jax
import numpy as np
import PIL.Image
import prepare_helpers
import pytest
from documentation_helpers import ROOT, Shown

from inception_jax import config
from inception_jax.cli import experiment_files, main, packaged, parse_verb

# One network for all runs, which is compiled once, and as few images as there may be.
NETWORK = "inception_resnet_v1"
SMALL = (
    f"--model.name {NETWORK} --model.width 0.05 --model.depths 1 1 1 --model.bn-momentum 0.9 --model.no-aux-head "
    "--data.image-size 75 --data.training-images 8 --data.validation-images 4 --data.no-colour "
    "--optim.clip-norm None --optim.ema-decay 0.95 "
    "--train.steps 2 --train.log-every 1 --train.batch-size 4 --evaluation.batch-size 4"
)
BRIEF = "--image-size 75 --batch-size 4 --seconds 0.05 --repeats 1"


@dataclasses.dataclass(frozen=True)
class Small:
    """How a command of the pages runs in a test."""

    more: str = ""
    """Flags put behind it."""
    instead: tuple[tuple[str, str], ...] = ()
    """Parts of it, and what takes their place."""
    makes: tuple[str, ...] = ()
    """Files that must be there in the end."""
    says: str = ""
    """What it must print."""


# By the beginning of the command, in the order of the README. Every entry is used.
RUN = {
    ".venv/bin/inception-jax compare digits": Small(
        SMALL,
        makes=tuple(f"runs/digits/{name}" for name in ("curves.png", "curves.svg"))
        + tuple(f"runs/digits/comparison.{kind}" for kind in ("md", "csv", "json")),
    ),
    "inception-jax train digits --run inception_v4 --workdir runs/v4": Small(
        SMALL, makes=("runs/v4/metrics.jsonl", "runs/v4/checkpoints/2/SHA256SUMS")
    ),
    "inception-jax compare runs/v4 runs/digits/inception_resnet_v2": Small(makes=("runs/pair/curves.png",)),
    "inception-jax data prepare imagenet:TARS": Small(makes=("data/imagenet2012/dataset_info.json",)),
    "inception-jax train imagenet --run inception_resnet_v2": Small(
        SMALL, instead=(("imagenet2012", "photos"),), makes=("runs/resnet_v2/metrics.jsonl",)
    ),
    "inception-jax data prepare folder:photos": Small(makes=("data/photos/dataset_info.json",)),
    "inception-jax data check tfds:data/photos": Small(says="images of a class"),
    "inception-jax data show tfds:data/photos": Small("--image-size 75 --rows 1", makes=("crops.png",)),
    "inception-jax benchmark data tfds:data/photos": Small(BRIEF, says="images/s"),
    "inception-jax experiments": Small(says="digits"),
    "inception-jax experiments digits": Small(says="def runs()"),
    "inception-jax --version": Small(says="backend"),
    "inception-jax --tyro-print-completion bash": Small(says="inception"),
    "inception-jax evaluate runs/v4 runs/a runs/b runs/c": Small(
        "--data folder:photos", makes=("four.npz", "results/evaluation.json", "results/evaluation.md"), says="ensemble"
    ),
    "inception-jax evaluate runs/v4": Small(says="averaged parameters"),
    "inception-jax evaluate v4 --data tfds:data/imagenet2012": Small(says="2 of 3 images"),
    "inception-jax evaluate four.npz another.npz": Small(says="ensemble"),
    "inception-jax import hf://timm/inception_v4.tf_in1k v4": Small(
        "--format inception_jax --num-classes 1000 --overwrite",  # The reader has a v4 for the commands before.
        instead=(
            ("hf://timm/inception_v4.tf_in1k", "narrow.safetensors"),
            ("--model inception_v4", f"--model {NETWORK}"),
        ),
        makes=("v4/SHA256SUMS",),
    ),
    "inception-jax predict v4 cat.jpg dog.jpg": Small(says="cat.jpg"),
    "inception-jax train digits --run inception_v4 --workdir runs/tuned": Small(
        SMALL, instead=(("--model.width 1", ""),), makes=("runs/tuned/metrics.jsonl",)
    ),
    "inception-jax train finetune --init-from v4": Small(SMALL, makes=("runs/photos/metrics.jsonl",)),
    "inception-jax export runs/photos": Small(says="read again", makes=("v4.safetensors",)),
    "python benchmarks/compare_peers.py --table docs/performance.json": Small(says="inception_v4"),
    "python experiments/residual_scaling.py": Small(
        instead=(("runs/residual_scaling", "experiments/results/residual_scaling/runs"),), says="dead from step"
    ),
    "python experiments/finetune_digits.py": Small(
        instead=(("runs/finetune_digits", "experiments/results/finetune_digits/runs"),),
        makes=("finetuning.png",),
        says="whole network",
    ),
    "inception-jax compare runs/residual_scaling/wide_0.045_*": Small(
        instead=(("runs/residual_scaling", "experiments/results/residual_scaling/runs"),),
        makes=("wide/zero_share.png",),
    ),
}

# Why the others do not run. Of these, and of all in prose and docstrings, the flags alone are looked at.
HOURS = "hours, or half of one"
POD = "several hosts"
MINUTES = "some minutes, and Fashion-MNIST"
FULL = "networks in full, some minutes"
NOT_RUN = {
    "inception-jax train imagenet --run inception_v4 --workdir runs/inception_v4": HOURS,
    "inception-jax train imagenet --run inception_v4 --workdir /shared": POD,
    "inception-jax benchmark train": FULL,
    "inception-jax benchmark infer": FULL,
    "inception-jax benchmark startup": FULL,
    "inception-jax summary inception_v4": "test_cli.py runs it",
    "inception-jax summary inception_v4 --memory": FULL,
    "inception-jax compare experiments/residual_scaling.py": HOURS,
    "inception-jax train fashion_mnist": MINUTES,
    "inception-jax compare finetune_digits": MINUTES,
    "inception-jax compare experiments/residual_vs_pure_fashion": HOURS,
    "XLA_FLAGS=--xla_force_host_platform_device_count=4 inception-jax compare experiments/section_4_ablation.py": HOURS,
    "python benchmarks/compare_peers.py --out": HOURS,
    "python benchmarks/compare_peers.py --device cuda": "a GPU",
}
# Not of this package, and most want the network. test_what_is_installed_is_offered looks at the extras.
OTHERS = (
    "python3 -m venv ",
    ".venv/bin/pip install ",
    "pip install ",
    "apt-get install ",
    ".venv/bin/pytest",
    "xprof server ",
)

# The beginnings of the snippets that a test of their own runs, and of those that none does.
MODEL = "import jax\nfrom inception_jax import create_model"
PREDICTOR = "from inception_jax import Predictor"
SNIPPETS_NOT_RUN = {"import timm, safetensors.torch": "PyTorch and timm"}

# What the prose leaves open.
OPEN = {
    "EXPERIMENT": "digits",
    "FORMAT": "orbax",
    "NET": "inception_v4",
    "FOLDER/runs/*": "a",
    "tfds:DIR": "tfds:a",
}


def of(commands):
    return [c for c in commands if not c.text.startswith(OTHERS)]


def beginning(command: Shown, *tables):
    """The longest key of the tables that the command begins with, or None."""
    return max((key for key in itertools.chain(*tables) if command.text.startswith(key)), key=len, default=None)


def words(command: str) -> list[str]:
    """The command as its program gets it, without what it sets in the environment."""
    found = shlex.split(command)
    while re.match(r"\w+=", found[0]):
        found = found[1:]
    return [OPEN.get(word, word) for word in found]


# What is shown is known


def test_every_block_is_run_or_known_not_to_be():
    languages = {language for _, language, _ in shown.fences()}
    assert languages == {"sh", "python", "text"}  # text is no command: a tree, an order
    commands = shown.commands()
    assert len(shown.fences()) >= 18 and len(of(commands)) >= 30 and len(shown.snippets()) >= 3
    assert [str(c) for c in of(commands) if beginning(c, RUN, NOT_RUN) is None] == []
    known = (MODEL, PREDICTOR, *SNIPPETS_NOT_RUN)
    assert [s.text for s in shown.snippets() if not s.text.startswith(known)] == []


def test_the_tables_name_nothing_that_is_no_longer_shown():
    commands = [*shown.commands(), *in_prose()]
    assert [key for key in (*RUN, *NOT_RUN) if key not in {beginning(c, RUN, NOT_RUN) for c in commands}] == []
    assert [key for key in OTHERS if not any(c.text.startswith(key) for c in commands)] == []
    texts = [s.text for s in shown.snippets()]
    assert [key for key in (MODEL, PREDICTOR, *SNIPPETS_NOT_RUN) if not any(t.startswith(key) for t in texts)] == []


def in_prose():
    return [s for s in shown.spans() if shown.PROGRAM.match(s.text)]


# Flags


class Parsed(Exception):
    """Thrown where the work of a script would begin."""


def check_flags(command: Shown, monkeypatch, capfd) -> None:
    program, *arguments = words(command.text)
    if program == "python":
        return check_script(*arguments, monkeypatch=monkeypatch)
    if not [a for a in arguments if a.startswith("-")] and len(arguments) < 3:
        arguments.append("--help")  # The prose names a verb without all that it needs.
    if arguments[0] in ("--version", "--tyro-print-completion"):
        return  # Without a verb; they are run.
    if "--help" in arguments:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert not end.value.code, capfd.readouterr().err
        return
    verb, flags = parse_verb(arguments)
    what = getattr(verb, "experiment", None) or next(iter(getattr(verb, "what", ())), "")
    if not what.endswith(".py") and what not in packaged.files():
        assert not flags
        return
    runs = experiment_files.load_runs(what)
    named = experiment_files.choose_run(runs, verb.run, what)[1] if hasattr(verb, "run") else next(iter(runs.values()))
    experiment_files.override(named, flags, prog="")


def check_script(path: str, *arguments: str, monkeypatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(parser, given=None):
        parse(parser, arguments)
        raise Parsed

    if not arguments or path.startswith("experiments"):
        assert (ROOT / path).is_file()
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / path), run_name="__main__")


FLAGGED = {str(c): c for c in [*of(shown.commands()), *in_prose(), *shown.in_docstrings()]}


def test_commands_are_found_in_prose_and_in_docstrings():
    assert len(in_prose()) >= 15 and len(shown.in_docstrings()) >= 15


@pytest.mark.parametrize("command", FLAGGED.values(), ids=FLAGGED)
def test_the_flags_of_every_command_are_right(command, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    check_flags(command, monkeypatch, capfd)


def test_the_flags_named_alone_are_there():
    fields = {"--" + field.replace("_", "-") for field in config.to_flat_dict(config.Experiment())}
    sources = [path.read_text() for path in ROOT.glob("benchmarks/*.py")]
    sources += [path.read_text() for path in ROOT.glob("inception_jax/cli/*.py")]
    verbs = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', "\n".join(sources)))
    verbs |= {"--" + name.replace("_", "-") for name in re.findall(r"^    (\w+): ", "\n".join(sources), re.M)}
    named = [s for s in shown.spans() if s.text.startswith("--")]
    assert len(named) >= 30
    for command in named:
        flag, *values = command.text.split()
        assert flag in fields | verbs | {"--help"}, str(command)
        if flag in fields and values:
            experiment_files.override(config.Experiment(), [flag, *values], prog="")


def test_no_message_help_or_docstring_names_a_field_that_is_refused():
    known = {field.replace("_", "-") for field in config.to_flat_dict(config.Experiment())}
    pattern = re.compile(r"--((?:model|data|optim|train|evaluation)\.[\w-]+)(?: (True|False)\b)?")
    paths = [p for folder in ("inception_jax", "experiments", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    paths += [*shown.PAGES, ROOT / "CHANGELOG.md"]
    found = [(path.name, *match) for path in paths for match in pattern.findall(path.read_text())]
    assert len(found) >= 30
    assert [f for f in found if f[1].replace(".no-", ".") not in known or f[2]] == []


# Files, extras and names


def test_what_is_installed_is_offered(monkeypatch):
    asked = []
    stand_in = types.SimpleNamespace(setup=lambda **facts: asked.append(facts), find_packages=lambda **_: [])
    monkeypatch.setitem(sys.modules, "setuptools", stand_in)  # Which Python 3.13's environments lack.
    runpy.run_path(str(ROOT / "setup.py"))
    texts = [path.read_text() for path in (*shown.PAGES, *(ROOT / "inception_jax").rglob("*.py"))]
    named = {
        n for found in re.findall(r"(?:inception_jax|\.)\[([\w,]+)\]'", "\n".join(texts)) for n in found.split(",")
    }
    named |= set(re.findall(r"`\.\[(\w+)\]`", "\n".join(texts)))
    assert {"test", "hub", "weights", "cuda", "tpu"} <= named <= set(asked[0]["extras_require"])


def test_files_that_the_pages_name_are_there():
    for page in shown.PAGES:
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {path}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {path}#{anchor}"
    named = [
        s for s in shown.spans() if re.fullmatch(r"(docs|experiments|benchmarks|tests|inception_jax)/[\w./-]+", s.text)
    ]
    assert len(named) >= 10
    assert [str(s) for s in named if not (ROOT / s.text).exists()] == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", shown.FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_modules_and_imports_that_the_pages_name_are_there():
    folders = [ROOT, *(ROOT / name for name in ("inception_jax", "experiments", "benchmarks"))]
    modules = [s for s in shown.spans() if re.fullmatch(r"[a-z][\w/]*\.py", s.text) and s.text.islower()]
    assert len(modules) >= 20
    assert [str(s) for s in modules if not any((folder / s.text).is_file() for folder in folders)] == []
    imports = [s.text for s in shown.spans() if s.text.startswith("from inception_jax")]
    assert len(imports) >= 2
    for text in imports:
        exec(text, {})


# Running


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with all that the README's commands start from; the runs in it come from its own commands."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("experiments", "benchmarks", "docs"):
            Path(name).symlink_to(ROOT / name)
        write_pictures()
        run("inception-jax train digits --run inception_v4 --workdir runs/v4")
        for name in "abc":
            shutil.copytree("runs/v4", f"runs/{name}")
        assert main("export runs/v4 narrow.safetensors --format safetensors".split()) == 0
        run(".venv/bin/inception-jax compare digits")
        run("inception-jax import hf://")
        run("inception-jax data prepare folder:photos")
        assert main("evaluate runs/a --data folder:photos --crops 10 --save-predictions another.npz".split()) == 0
    return folder


def write_pictures():
    rng = np.random.default_rng(0)
    # Ten classes, as the digits have.
    files = [f"photos/{split}/{n}/{n}.jpg" for split in ("train", "validation") for n in range(10)]
    files += ["cat.jpg", "dog.jpg"]
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (90, 100, 3), np.uint8)).save(file)
    prepare_helpers.write(Path("TARS/ILSVRC2012_img_train.tar"), prepare_helpers.tar(prepare_helpers.TRAINING))
    prepare_helpers.write(Path("TARS/ILSVRC2012_img_val.tar"), prepare_helpers.tar(prepare_helpers.VALIDATION))
    Path("blacklist.txt").write_text("2\n")


def run(start: str) -> None:
    """Runs the command that begins so, as small as `RUN` has it."""
    execute(next(c for c in RUNNABLE.values() if c.text.startswith(start)))


def execute(command: Shown) -> None:
    small, text = RUN[beginning(command, RUN, NOT_RUN)], command.text
    for old, new in small.instead:
        assert old in text
        text = text.replace(old, new)
    program, *arguments = words(f"{text} {small.more}")
    arguments = [word for a in arguments for word in (sorted(glob.glob(a)) or [a])]
    if program == "python":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            patch.syspath_prepend(str(Path(arguments[0]).parent.resolve()))
            runpy.run_path(arguments[0], run_name="__main__")
    else:
        assert main(arguments) == 0, text
    for file in small.makes:
        assert Path(file).stat().st_size > 0, file


RUNNABLE = {c.text: c for c in [*of(shown.commands()), *in_prose()] if beginning(c, RUN, NOT_RUN) in RUN}


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNNABLE.values(), ids=RUNNABLE)
def test_every_command_does_what_it_says(place, command, monkeypatch, capfd):
    monkeypatch.chdir(place)
    try:
        execute(command)
    except SystemExit as end:
        assert not end.code
    assert RUN[beginning(command, RUN, NOT_RUN)].says in capfd.readouterr().out


def snippet(start: str, *instead: tuple[str, str]) -> str:
    """The text of the snippet that begins so, with other words in it."""
    (text,) = (s.text for s in shown.snippets() if s.text.startswith(start))
    for old, new in instead:
        assert old in text
        text = text.replace(old, new)
    return text


def test_the_snippet_of_a_network_gives_what_its_comments_say():
    text = snippet(MODEL, ("num_classes=1000", "num_classes=1000, depths=(1, 1, 1)"))

    def run(images):
        names = {"images": images}
        exec(text, names)
        return names["logits"], names["features"]

    # Nothing is compiled.
    logits, features = jax.eval_shape(run, jax.ShapeDtypeStruct((3, 75, 80, 3), "float32"))
    assert (logits.shape, logits.dtype, features.shape) == ((3, 1000), "float32", (3, 2144))


@pytest.mark.slow
def test_the_snippet_of_a_predictor_prints_three_classes_a_picture(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    exec(snippet(PREDICTOR), {})
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.count("(") == 3 for line in lines)


@pytest.mark.slow
def test_the_metrics_are_those_of_the_table(place):
    table = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \| (?:all|train|validation) \|", table, re.M)
    named = {name for row in rows for name in re.findall(r"`([\w/]+)`", row)}
    lines = (place / "runs" / "v4" / "metrics.jsonl").read_text().splitlines()
    written = {name for line in lines for name in json.loads(line)}
    assert written == {name for name in named if "/" not in name}
