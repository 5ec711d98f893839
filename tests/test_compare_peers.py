"""The comparison with peers: race, arithmetic, files and tables. The peers need not be installed."""

import importlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
from helpers import Shallow

from inception_jax import build
from inception_jax.errors import RunFailed, UserError

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
compare_peers, cases, contestant, race, report = (
    importlib.import_module(name)
    for name in ("compare_peers", "peers.cases", "peers.contestant", "peers.race", "peers.report")
)

CASE = cases.Case("train", "inception_v4", 4, 149, "cpu", "float32")

# Reports that it is prepared; then in each turn appends its name to a file and answers with its next rate.
FAKE = """
import json, os, signal, sys
name, order, rates = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
print(json.dumps({"device": "fake"}), flush=True)
for rate, _ in zip(rates, sys.stdin):
    print(name, end="", file=open(order, "a"))
    if rate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if rate == "ended":
        sys.exit("a library's error")
    print(json.dumps({"failed": "no memory."} if rate == "failed" else {"rate": rate, "peak_megabytes": 7}), flush=True)
"""


def fakes(order, **rates):
    return {name: [sys.executable, "-c", FAKE, name, str(order), json.dumps(r)] for name, r in rates.items()}


def test_all_run_in_each_round_and_the_first_changes(tmp_path):
    order = tmp_path / "order"
    outcome = race.race(fakes(order, a=[1, 2, 3], b=[4, 5, 6], c=[7, 8, 9]), {}, rounds=3)
    assert outcome.rates == {"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]} and outcome.failures == {}
    assert outcome.facts == {name: {"device": "fake", "peak_megabytes": 7} for name in "abc"}
    assert order.read_text() == "abc" + "bca" + "cab"


def test_a_contestant_that_fails_is_named_and_the_others_continue(tmp_path):
    order = tmp_path / "order"
    commands = fakes(order, a=[1, "failed"], b=[2, 3, 4], c=[5, "killed"], d=["ended"])
    commands["e"] = [sys.executable, "-c", 'print(\'{"failed": "not installed."}\')']
    outcome = race.race(commands, {}, rounds=3)
    assert outcome.rates == {"b": [2, 3, 4]}
    expected = {"a": "no memory", "c": "signal 9", "d": "1: a library's error", "e": "not installed"}
    assert outcome.failures.keys() == expected.keys()
    assert all(expected[name] in message for name, message in outcome.failures.items())
    # The order is that of the four that were prepared, without those that have failed.
    assert order.read_text() == "abcd" + "bca" + "b"


def test_workers_have_the_given_environment():
    script = (
        "import os; print('{\"device\": \"%s\"}' % os.environ['PEER'], flush=True); input(); print('{\"rate\": 1}')"
    )
    outcome = race.race({"a": [sys.executable, "-c", script]}, {"PEER": "x"}, rounds=1)
    assert outcome.facts["a"]["device"] == "x" and outcome.rates == {"a": [1]}


def fake_contestant(number=1.0, **fields):
    """A contestant without work, and the log of its calls."""
    log = []
    calls = {"launch": lambda: log.append("launch"), "wait": lambda _: log.append("wait") or number}
    values = {"units": 4, "device": "fake", "peak_megabytes": lambda: 7.0, **fields}
    return contestant.Contestant(**calls, **values), log


@pytest.mark.parametrize(("ahead", "calls"), [(0, "lwlwlw"), (1, "llwlww")])
def test_a_turn_by_hand(monkeypatch, ahead, calls):
    # The clock shows 10 at the start, 11, 12 and 13 after the three steps, and 14 when all have ended.
    clock = iter([10.0, 11.0, 12.0, 13.0, 14.0])
    monkeypatch.setattr(contestant.time, "perf_counter", lambda: next(clock))
    fake, log = fake_contestant()
    assert contestant.turn(fake, 2.5, ahead=ahead) == 3 * 4 / 4.0
    assert "".join(call[0] for call in log) == "lw" + calls  # the first step is not timed


def answers_of(monkeypatch, prepare, requests=()):
    monkeypatch.setattr(contestant, "prepare", prepare)
    answers = io.StringIO()
    contestant.serve("timm", CASE, 0.0, requests, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_contestant_answers_each_request(monkeypatch):
    fake, log = fake_contestant(parameters=3)
    prepared, *turns = answers_of(monkeypatch, lambda name, case: fake, ["\n", "\n"])
    assert prepared == {"parameters": 3, "multiply_adds": None, "device": "fake"}
    assert len(turns) == 2 and all(turn["rate"] > 0 and turn["peak_megabytes"] == 7 for turn in turns)
    assert len(log) == 2 * (1 + 2 + 2)  # compilation, and an untimed step in each turn


def test_a_contestant_reports_its_failure(monkeypatch):
    fake, _ = fake_contestant(number=float("nan"))
    (answer,) = answers_of(monkeypatch, lambda name, case: fake)
    assert "ArithmeticError" in answer["failed"] and "nan" in answer["failed"]

    def missing(name, case):
        import no_such_library  # noqa: F401

    (answer,) = answers_of(monkeypatch, missing)
    assert "no_such_library" in answer["failed"]


def test_our_steps_are_those_of_the_package(monkeypatch):
    ours = importlib.import_module("peers.ours")
    monkeypatch.setattr(
        build, "make_model", lambda experiment: Shallow(num_classes=10, dropout_rate=0.0, bn_momentum=0.9)
    )
    case = cases.Case("infer", "inception_v4", 4, 75, "cpu", "float32")
    inference = ours.prepare(case)
    assert inference.wait(inference.launch()) == pytest.approx(4)  # the probabilities of each of four images sum to one
    # By hand: 12 features 5x5 at 19x19, 16 features 3x3 at 10x10, 20 features 3x3 at 10x10, and a classifier.
    kernels = [(19 * 19, 5 * 5 * 3 * 12), (10 * 10, 3 * 3 * 12 * 16), (10 * 10, 3 * 3 * 16 * 20), (1, 20 * 10)]
    assert inference.multiply_adds == sum(places * numbers for places, numbers in kernels)
    assert inference.parameters == sum(numbers for _, numbers in kernels) + 2 * (12 + 16 + 20) + 10
    assert inference.units == 4 and inference.device == "cpu" and inference.peak_megabytes() > 50
    training = ours.prepare(cases.dataclasses.replace(case, mode="train", batch_size=8))
    losses = [training.wait(training.launch()) for _ in range(8)]
    assert 1 < losses[0] < 6 and losses[-1] < losses[0] and training.parameters == inference.parameters


def test_cases_and_their_contestants():
    grid = cases.grid(["infer", "train"], ["inception_v4"], [1, 4], [149], device="cpu", dtype="float32")
    assert [(case.mode, case.batch_size) for case in grid] == [("infer", 1), ("infer", 4), ("train", 1), ("train", 4)]
    assert str(grid[-1]) == str(CASE) == "train inception_v4, batch 4 at 149, float32 on cpu"
    all_contestants = ["ours", "timm", "timm-channels-last", "timm-compiled", "keras", "product-jax", "product-torch"]
    v3 = cases.Case("infer", "inception_v3", 1, 299, "cpu", "float32")
    assert cases.contestants(v3, cases.PEERS) == all_contestants
    assert cases.contestants(CASE, cases.PEERS) == [name for name in all_contestants if name != "keras"]
    assert cases.contestants(v3, ["keras"]) == ["ours", "keras", "product-jax"]


RATES = {
    "ours": [10.0, 12.0, 11.0],
    "timm": [10.0, 10.0, 20.0],
    "timm-channels-last": [16.0, 15.0, 10.0],
    "product-jax": [8e9, 9e9, 4e9],
    "product-torch": [5e9, 10e9, 5e9],
}
FACTS = {name: {"device": "cpu", "peak_megabytes": 1234.0, "parameters": 5} for name in ("ours", *cases.LAYOUTS)}
FACTS["ours"]["multiply_adds"] = 50_000_000


def test_summary_by_hand():
    summary = report.summarize("train", RATES, FACTS)
    assert summary["limit"] == 8e9 and summary["better_layout"] == "timm-channels-last"
    assert summary["ours"] == {
        **{"images_per_second": 11.0, "least": 10.0, "greatest": 12.0, "ratio": 1.0},
        # 2 * 3 * 50e6 operations per image; the fractions are 0.3 times 10/8, 12/10 and 11/5.
        **{"operations_per_second": pytest.approx(3.3e9), "share": pytest.approx(0.3 * 10 / 8)},
    }
    # 10/16, 12/15, 11/10: not the ratio of the medians, 11/15.
    assert summary["timm-channels-last"]["ratio"] == pytest.approx(0.8)
    assert summary["timm"]["ratio"] == 1.0 and "product-jax" not in summary
    inference = report.summarize("infer", RATES, FACTS)
    assert inference["ours"]["share"] == pytest.approx(summary["ours"]["share"] / 3)


def test_a_summary_omits_what_needs_a_failed_contestant():
    without_ours = {name: rates for name, rates in RATES.items() if name != "ours"}
    facts = {name: fact for name, fact in FACTS.items() if name != "ours"}
    summary = report.summarize("infer", without_ours, facts)
    assert summary["timm"] == {"images_per_second": 10.0, "least": 10.0, "greatest": 20.0}
    assert report.summarize("infer", {}, {}) == {}


def a_record(case=CASE, **changes):
    rates, facts = dict(RATES), {name: dict(fact) for name, fact in FACTS.items()}
    return {
        **cases.dataclasses.asdict(case),
        **{"rounds": 3, "seconds": 3.0, "rates": rates, "facts": facts, "failures": {"timm-compiled": "no compiler."}},
        "summary": report.summarize(case.mode, rates, facts),
        **{"machine": {"cores": 2, "cpu": "Some CPU", "system": "Linux x86_64"}, "versions": {"jax": "0.10.2"}},
        **{"measured": "2026-01-02T03:04:05+00:00", "command": "python benchmarks/compare_peers.py", **changes},
    }


def test_the_tables(capsys, tmp_path):
    file = tmp_path / "peers.json"
    record = a_record()
    record["facts"]["timm"]["parameters"] = 4
    record["facts"]["timm-channels-last"]["peak_megabytes"] = 1200.4
    report.write(file, [record])
    assert compare_peers.main(["--table", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "**train, float32 on cpu**",
        "",
        "| model | batch | size | ours, images/s | timm NCHW, images/s | timm NHWC, images/s | ours / better layout | "
        "fraction of matmul: ours / better layout | MB: ours / better layout |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| inception_v4 | 4 | 149 | 11 (10 to 12) | 10 (10 to 20) | 15 (10 to 16) | 0.80 | 38% / 60% | 1,234 / 1,200 |",
        "",
        "- Median (minimum to maximum) over rounds; a ratio is the median of the rounds' ratios.",
        "- train inception_v4, batch 4 at 149: timm compiled: no compiler.",
        "- inception_v4 has 5 parameters, but timm NCHW 4.",
        "- Matrix products reach 8 to 8 GFLOP/s (cpu).",
        "- 2 cores, Some CPU, Linux x86_64.",
        "- jax 0.10.2.",
        "- 2026-01-02: `python benchmarks/compare_peers.py`",
    ]


def test_cases_are_added_and_measured_again(tmp_path, monkeypatch):
    file = tmp_path / "peers.json"
    monkeypatch.setattr(race, "race", lambda commands, environment, rounds: race.Outcome(FACTS, RATES, {}))
    arguments = ["--models", "inception_v4", "--modes", "train", "--out", str(file), "--batch-sizes"]
    assert compare_peers.main([*arguments, "4"]) == 0
    first = report.read(file)
    assert compare_peers.main([*arguments, "1", "4", "--rounds", "2"]) == 0
    second = report.read(file)
    assert [(r["batch_size"], r["rounds"]) for r in first] == [(4, 5)]
    assert [(r["batch_size"], r["rounds"]) for r in second] == [(1, 2), (4, 2)]
    assert first[0]["rates"] == RATES and first[0]["facts"] == FACTS and first[0]["versions"]["jax"]
    assert first[0]["command"].endswith("compare_peers.py " + " ".join([*arguments, "4"]))
    # A race against other peers is kept beside it.
    others = race.Outcome(FACTS, {name: rates for name, rates in RATES.items() if name != "timm"}, {})
    monkeypatch.setattr(race, "race", lambda commands, environment, rounds: others)
    assert compare_peers.main([*arguments, "4", "--rounds", "3"]) == 0
    assert sorted((r["batch_size"], r["rounds"]) for r in report.read(file)) == [(1, 2), (4, 2), (4, 3)]
    # Interrupted in the second case: the first one is kept.
    turns = iter([race.Outcome(FACTS, RATES, {})])

    def interrupted(*_):
        for outcome in turns:
            return outcome
        raise KeyboardInterrupt

    monkeypatch.setattr(race, "race", interrupted)
    assert compare_peers.main([*arguments, "16", "64"]) == 130
    assert [r["batch_size"] for r in report.read(file)] == [1, 4, 4, 16]


def test_mistakes(tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"cases": [{"model": "x"}]}')
    for message, arguments in {
        "inception_resnet_v2.*--models .*inception_v3,": ["--models", "inception_resnet_v2"],
        "--batch-sizes .*0.* 1 ": ["--batch-sizes", "4", "0"],
        "--image-sizes .*74.* 75 ": ["--image-sizes", "74"],
        "--rounds .*0.* 1 ": ["--rounds", "0"],
        "other.json": ["--out", str(tmp_path / "other.json")],
        "nothing.json": ["--table", str(tmp_path / "nothing.json")],
    }.items():
        assert compare_peers.main(arguments) == 2
        error = capsys.readouterr().err
        assert re.search(message, error) and error.count("\n") == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="peers.json"):
        report.write(tmp_path / "file" / "peers.json", [])
    with pytest.raises(UserError, match=tmp_path.name):
        report.read(tmp_path)
