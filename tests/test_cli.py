"""The command line as a user meets it: help, mistakes, and the verbs end to end."""

import json
import os
import re
import subprocess
import sys
import textwrap

import jax
import pytest

from inception_jax import compare, train
from inception_jax.cli import VERBS, main
from inception_jax.errors import RunFailed

EXPERIMENT = """
from inception_jax.config import *

def runs():
    # The same network twice, so that it is compiled once.
    return {
        name: Experiment(
            seed=seed,
            model=ModelConfig(name="inception_resnet_v1", width=0.05, depths=(1, 1, 1), bn_momentum=0.9),
            data=DataConfig(source="digits", image_size=75, flip=False),
            optim=OptimConfig(ema_decay=0.9),
            train=TrainConfig(batch_size=8, steps=2, log_every=1),
            evaluation=EvaluationConfig(batch_size=128),
        )
        for seed, name in enumerate(("first", "second"))
    }
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "pair.py"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.fixture
def in_tmp_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd, *arguments):
    """Exit code, standard output and standard error of one command."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as end:
        code = end.code or 0
    out, err = capfd.readouterr()
    return code, out, err


def commands(verbs, words=()):
    """The words of every verb and of every group of verbs."""
    if not isinstance(verbs, dict):
        return [words]
    return [words, *(command for name, verb in verbs.items() for command in commands(verb, (*words, name)))]


@pytest.mark.parametrize("verb", commands(VERBS), ids=" ".join)
def test_help_fits_a_screen(capfd, verb):
    code, out, err = run(capfd, *verb, "--help")
    assert code == 0 and not err and "inception-jax" in out
    assert len(out.splitlines()) <= 45 and max(map(len, out.splitlines())) <= 110
    assert "None}" not in out


def test_help_of_an_experiment_lists_its_fields_with_their_values(capfd, experiment):
    code, out, _ = run(capfd, "train", experiment, "--help")
    assert code == 0
    for field in ("--seed", "--model.width", "--optim.learning-rate", "--train.batch-size", "--data.image-size"):
        assert field in out
    assert "(default: 0.05)" in out


MISTAKES = {
    ("--optim.learning-rate", "-1"): r"optim\.learning_rate.*-1",
    ("--data.image-size", "32"): r"data\.image_size.*32.*75",
    ("--model.name", "vgg"): r"'vgg'.*inception_v3",
    ("--data.source", "cifar"): "cifar",
    ("--run", "inception_v3"): r"'inception_v3'.*first, second",
    ("--train.batch-size", "6"): r"train\.batch_size.*6.*4 devices",
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.items())
def test_mistakes_in_fields_are_one_line_and_exit_2(capfd, tmp_path, experiment, flags, message):
    chosen = () if "--run" in flags else ("--run", "first")
    code, out, err = run(capfd, "train", experiment, "--workdir", tmp_path / "run", *chosen, *flags)
    assert code == 2 and not out
    assert re.search(message, err) and err.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


TRAIN = ("train", "FILE", "--run", "first", "--workdir", "run")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((*TRAIN, "--optim.learnin-rate", "1"), ("--optim.learnin-rate", "--optim.learning-rate")),
        ((*TRAIN, "--train.nonsense", "1"), ("--train.nonsense",)),
        ((*TRAIN, "stray"), ("stray",)),
        (("train", "FILE", "--wrkdir", "x"), ("--workdir", "--wrkdir", "inception-jax train --help")),
        (("summary", "inception_v4", "--depth", "1"), ("--depth", "--depths", "inception-jax summary --help")),
        (
            ("benchmark", "infer", "--batc-size", "1"),
            ("--batc-size", "--batch-size", "inception-jax benchmark infer --help"),
        ),
        (("sumary",), ("sumary", "train, compare, evaluate, experiments, summary")),
        (("benchmark", "infr"), ("infr", "train, infer, data, save, startup", "inception-jax benchmark --help")),
        (("data", "sho", "x"), ("sho", "prepare, check, show", "inception-jax data --help")),
        (("data",), ("prepare, check, show",)),
    ],
)
def test_arguments_that_cannot_be_parsed_are_named_and_exit_2(capfd, experiment, in_tmp_path, arguments, named):
    code, out, err = run(capfd, *(experiment if a == "FILE" else a for a in arguments))
    assert code == 2 and not out and not (in_tmp_path / "run").exists()
    assert all(word in err for word in named)
    assert len(set(map(len, err.splitlines()))) == 1  # tyro's box


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((*TRAIN, "--train.steps", "1e3"), ("train.steps takes a whole number", "1e3 is not one", "give 1000.")),
        ((*TRAIN, "--train.steps=1,000"), ("train.steps", "1,000", "give 1000.")),
        ((*TRAIN, "--train.replicas", "Auto"), ("train.replicas takes a whole number or auto or None", "give auto.")),
        ((*TRAIN, "--train.replicas", "4.0"), ("4.0 is not one: give 4.",)),
        ((*TRAIN, "--seed", "10.0"), ("seed takes a whole number", "give 10.")),
        ((*TRAIN, "--train.batch-size", "16.5"), ("train.batch_size takes a whole number, 16.5 is not one.",)),
        ((*TRAIN, "--optim.learning-rate", "fast"), ("optim.learning_rate takes a number, fast is not one.",)),
        ((*TRAIN, "--optim.learning-rate", "0,045"), ("optim.learning_rate", "0,045", "give 0.045.")),
        ((*TRAIN, "--optim.learning-rate", "1,500"), ("optim.learning_rate takes a number, 1,500 is not one.",)),
        ((*TRAIN, "--train.label-smoothing", "10%"), ("train.label_smoothing", "give 0.1.")),
        ((*TRAIN, "--data.central-fraction", "7/8"), ("data.central_fraction", "give 0.875.")),
        ((*TRAIN, "--optim.learning-rate"), ("optim.learning_rate takes a number, and none is given.",)),
        ((*TRAIN, "--optim.clip-norm", ""), ("optim.clip_norm takes a number or None, '' is not one.",)),
        ((*TRAIN, "--data.resize", "cubic"), ("data.resize", "bilinear, bicubic, area", "cubic", "give bicubic.")),
        ((*TRAIN, "--data.flip", "False"), ("data.flip", "--data.flip or --data.no-flip")),
        ((*TRAIN, "--model.depths", "1", "2"), ("model.depths takes three whole numbers", "two are given")),
        ((*TRAIN, "--model.depths", "1,2,3"), ("model.depths", "1,2,3", "give 1 2 3.")),
        ((*TRAIN, "--model.residual-scales", "(0.1,", ".2,", "0.3)"), ("model.residual_scales", "give 0.1 .2 0.3.")),
        (("evaluate", "x", "--crops", "11"), ("--crops takes one of 1, 10, 12, 144; 11 is not one.",)),
        (("evaluate", "x", "--scales", "256,300"), ("--scales takes whole numbers", "give 256 300.")),
        (("evaluate", "x", "--classes", "Present"), ("--classes takes one of all, present", "give present.")),
        (("predict", "x", "y.jpg", "--top", "x"), ("--top takes a whole number, x is not one.",)),
        (("summary", "inception_v4", "--memory", "yes"), ("--memory is a switch", "give --memory or leave it out")),
    ],
)
def test_values_of_the_wrong_type_are_one_line_with_what_to_give(capfd, experiment, in_tmp_path, arguments, named):
    code, out, err = run(capfd, *(experiment if a == "FILE" else a for a in arguments))
    assert code == 2 and not out and err.count("\n") == 1 and not (in_tmp_path / "run").exists()
    assert all(words in err for words in named), err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "missing.py", "--workdir", "x"), r"missing\.py"),
        (("train", "FILE", "--workdir", "x"), r"--run.*first, second"),
        (("compare", "FILE"), "--workdir"),
        (("compare", "nowhere", "--out", "x"), r"nowhere.*config\.json"),
        (("compare", "nowhere", "--out", "FILE"), r"pair\.py cannot be written: .*file"),
        (("evaluate", "nowhere"), "nowhere.*checkpoint"),
        (("summary", "inception_v9"), "'inception_v9'"),
        (("summary", "inception_v4", "--image-size", "60"), "60.*75"),
    ],
)
def test_other_mistakes_are_one_line_and_exit_2(capfd, experiment, in_tmp_path, arguments, message):
    code, out, err = run(capfd, *(experiment if a == "FILE" else a for a in arguments))
    assert code == 2 and not out
    assert re.search(message, err) and err.count("\n") == 1, err


def test_summary_prints_the_figures_table(capfd):
    code, out, _ = run(capfd, "summary", "inception_v4")
    lines = out.splitlines()
    assert code == 0 and lines[-1].split() == ["total", "42,679,816", "12,253,974,624"]
    assert "stem_mixed_3             35x35x384       332,160      406,425,600" in lines
    code, out, _ = run(capfd, "summary", "inception_resnet_v2", "--depths", 10, 20, 10, "--json")
    summary = json.loads(out)
    assert summary["parameters"] == 55_284_488
    assert len([stage for stage in summary["stages"] if "block_b" in stage["name"]]) == 20


@pytest.mark.slow
def test_compare_trains_draws_resumes_and_evaluate_reads(capfd, tmp_path, experiment):
    work = tmp_path / "work"
    code, out, err = run(capfd, "compare", experiment, "--workdir", work, "--seed", "3")
    assert code == 0, err
    for name in ("curves.png", "curves.svg", "comparison.md", "comparison.csv", "comparison.json"):
        assert str(work / name) in out and (work / name).stat().st_size > 100
    table = (work / "comparison.md").read_text()
    assert "first" in table and "second" in table
    config = json.loads((work / "first" / "config.json").read_text())
    assert config["experiment"]["seed"] == 3

    code, _, err = run(capfd, "compare", experiment, "--workdir", work, "--seed", "3")
    assert code == 0 and err.count("already trained to step 2") == 2
    code, _, err = run(capfd, "compare", experiment, "--workdir", work)
    assert code == 2 and re.search("seed.* 0 .* 3 ", err)

    one = ("compare", work / "first", "--out", tmp_path / "one")
    code, out, _ = run(capfd, *one, "--metrics", "loss")
    assert code == 0 and (tmp_path / "one" / "comparison.csv").exists() and str(tmp_path / "one" / "loss.png") in out
    code, _, err = run(capfd, *one, "--metrics", "losses")
    assert code == 2 and "losses" in err and "gradient_norm" in err

    code, out, _ = run(capfd, "evaluate", work / "first", "--json")
    results = json.loads(out)
    assert code == 0 and results["images"] == 355 and 0 <= results["models"][0]["top1_error"] <= 1
    code, out, _ = run(capfd, "evaluate", work / "first")
    assert f"averaged parameters of step 2) | 1 | {100 * results['models'][0]['top1_error']:.2f} [" in out


def test_a_run_that_fails_exits_1_and_the_others_are_trained(capfd, tmp_path, experiment, monkeypatch):
    trained = []

    def fit(experiment, directory, *, name, **options):
        trained.append(name)
        if name == "first":
            raise RunFailed("the loss is nan")

    for module in (train, train.run):
        monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(compare, "compare", lambda directories, out: [out])
    code, _, err = run(capfd, "compare", experiment, "--workdir", tmp_path / "pair")
    assert code == 1 and trained == ["first", "second"]
    assert err == "inception-jax: first: the loss is nan\n"
    code, _, err = run(capfd, "train", experiment, "--run", "first", "--workdir", tmp_path / "one")
    assert code == 1 and err == "inception-jax: the loss is nan\n"


def test_where_every_run_fails_the_reasons_come_before_the_missing_runs(capfd, tmp_path, experiment, monkeypatch):
    def fit(experiment, directory, *, name, **options):
        raise RunFailed("the loss is nan")

    for module in (train, train.run):
        monkeypatch.setattr(module, "fit", fit)
    code, out, err = run(capfd, "compare", experiment, "--workdir", tmp_path / "pair")
    assert code == 1 and not out
    assert [line.split(": ", 2)[1] for line in err.splitlines()[:2]] == ["first", "second"]
    assert "is not a run" in err.splitlines()[2]


def test_only_the_first_process_draws(capfd, tmp_path, experiment, monkeypatch):
    drawn = []
    monkeypatch.setattr(train.run, "fit", lambda experiment, directory, **options: None)
    monkeypatch.setattr(compare, "compare", lambda directories, out: drawn.append(out) or [])
    monkeypatch.setattr(compare, "draw_metrics", lambda directories, names, out: drawn.append(out) or [])
    for process in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert run(capfd, "compare", experiment, "--workdir", tmp_path / "pair")[0] == 0
        assert bool(drawn) == (process == 0)


def test_help_starts_quickly_and_without_jax():
    script = textwrap.dedent(
        """
        import sys
        from inception_jax.cli import VERBS, main
        try:
            main(["--help"])
        except SystemExit:
            pass
        slow = {"jax", "flax", "optax", "orbax", "grain", "sklearn", "matplotlib", "tensorflow_datasets"}
        print("imported:", sorted(slow & set(sys.modules)))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.splitlines()[-1] == "imported: []"


# At exit JAX closes its devices, and a compilation that still runs then crashes the process: os.abort stands for that.
INTERRUPTED = """
import atexit, os, sys
from inception_jax import cli
def interrupt(*_):
    raise KeyboardInterrupt
cli.Train.__call__ = interrupt
sys.argv = ["inception-jax", "train", "experiment.py", "--workdir", "run"]
atexit.register(os.abort)
print("still in the buffer")
sys.exit(cli.main())
"""


def test_ctrl_c_does_not_wait_for_compilation():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "still in the buffer\n")
    assert done.stderr.splitlines()[-1] == "inception-jax: interrupted; run the same command again to resume."


def test_a_closed_pipe_ends_the_command_silently():
    command = [sys.executable, "-m", "inception_jax", "experiments"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def run_command(*arguments, **environment):
    command = [sys.executable, "-m", "inception_jax", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has it")
def test_output_that_cannot_be_written_is_one_sentence():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "inception_jax", "experiments"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and done.stderr.count("\n") == 1


def test_output_in_an_encoding_that_lacks_a_letter_is_escaped():
    done = run_command("--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "benchmark" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("platform", ["cuda", "bogus"])
def test_devices_that_cannot_be_opened_are_one_sentence(platform):
    done = run_command("summary", "inception_v4", JAX_PLATFORMS=platform)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.search(f"devices.*JAX_PLATFORMS.*{platform}", done.stderr)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def runs():\n    return {'a': Experimnt()}\n", r"mine\.py, line 2: .*'Experimnt'"),
        ("x = (\n", r"mine\.py, line 1: SyntaxError"),
        ("x = 1\n", r"mine\.py.*runs\(\)"),
        ("def runs():\n    return 3\n", r"mine\.py.*runs\(\)"),
    ],
)
def test_a_mistake_in_an_experiment_file_is_named_by_its_line(in_tmp_path, capfd, text, message):
    (in_tmp_path / "mine.py").write_text(text)
    assert main(["train", "mine.py", "--workdir", "run"]) == 2
    assert re.search(message, capfd.readouterr().err)


def test_the_help_of_an_experiment_has_the_values_of_the_chosen_run(capfd):
    rates = [run(capfd, "train", "digits", *name, "--help")[1] for name in ((), ("--run", "inception_v4"))]
    assert "0.015)" in rates[0] and "0.0045)" in rates[1]
