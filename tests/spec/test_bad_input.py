"""A wrong file gives one message that says where, what was there, and what is allowed; never a traceback."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdsearch.cli import main
from kdsearch.errors import SpecError
from kdsearch.spec.study import load_recipe, load_study, validate_file
from tests.damage import damaged
from tests.spec.examples import JOINT, joint

NO_KD = "no_kd: {distill: null}"
CASES = {
    "an unknown key": ("sampler:", "sampelr:", ":26: sampelr: unknown key; did you mean 'sampler'?"),
    "an unknown key of the recipe": (
        "validation: 0.1",
        "validatoin: 0.1",
        ":3: recipe.data.validatoin: unknown key; did you mean 'validation'?",
    ),
    "a misspelt hole": (
        "temperature: $temperature",
        "temperature: $temprature",
        ":9: recipe.distill.temperature: hole $temprature is not defined in the space; did you mean $temperature?",
    ),
    "an unused parameter": (
        "temperature: $temperature",
        "temperature: 3",
        ":14: space.temperature: parameter 'temperature' is used nowhere",
    ),
    "low above high": ("low: 1, high: 20", "low: 30, high: 20", ":14: space.temperature.low: must be below high: 20, not 30"),
    "a log range from 0": (
        "low: 1, high: 20",
        "low: 0, high: 20",
        ":14: space.temperature.low: must be greater than 0 on a log scale, not 0",
    ),
    "width 0": ("[1, 1.5, 2, 4]", "[1, 0, 2]", ":13: space.width.choices.1: must be greater than 0, not 0"),
    "9 bits": (
        "quantizer: lsq, bits: 2",
        "quantizer: lsq, bits: 9",
        ":20: space.weights.choices.lsq.bits: quantizer 'lsq' has no 9 bits; allowed: 2 to 8",
    ),
    "bits as a word": (
        "quantizer: lsq, bits: 2",
        "quantizer: lsq, bits: two",
        ":20: space.weights.choices.lsq.bits: must be a whole number, not 'two'",
    ),
    "an option the quantizer lacks": (
        "quantizer: lsq, bits: 2",
        "quantizer: lsq, bits: 2, bucket: 4",
        "bucket: quantizer 'lsq' has no option 'bucket'",
    ),
    "an end out of bounds": ("low: 0.1, high: 1}", "low: 0.1, high: 2}", ":15: space.coefficient.high: must be at most 1, not 2"),
    "a name with a slash": ("name: joint", "name: a/b", ":1: name: 'a/b' names a folder"),
    "a duplicate key": ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]", ":30: key 'seeds' stands twice, first on line 29"),
    "an unknown stratum": (
        "strata: [activations]",
        "strata: [activation]",
        ":23: strata.0: 'activation' is no parameter of the space; did you mean",
    ),
    "a range as stratum": ("strata: [activations]", "strata: [temperature]", "'temperature' is a range; a stratum needs choices"),
    "a conditional stratum": ("strata: [activations]", "strata: [policy]", "'policy' exists only under some choices"),
    "bits without strata": ("strata: [activations]", "strata: []", ":22: space.activations: 'activations' changes the bits"),
    "grid over a range": ("{name: tpe}\npruner: {name: percentile}", "grid", "space.temperature: is continuous"),
    "grid with a pruner": ("{name: tpe}", "grid", "pruner.name: a grid runs every cell on every seed, so the pruner must be none"),
    "a test metric": ("val_accuracy", "test_accuracy", "objective.metric: test_accuracy needs recipe.data.evaluate_on: test"),
    "an unknown metric": ("val_accuracy", "val_acuracy", "objective.metric: 'val_acuracy' is not known; did you mean 'val_accuracy'?"),
    "a size as objective": ("val_accuracy", "model_kib", "objective.metric: the first objective is one that each epoch has"),
    "an unknown pruner": ("{name: percentile}", "medain", "pruner.name: 'medain' is not known; did you mean 'median'?"),
    "an option the pruner lacks": (
        "{name: percentile}",
        "{name: median, percentile: 9}",
        "pruner.percentile: median has no option 'percentile'",
    ),
    "a seed twice": ("seeds: [0, 1]", "seeds: [1, 1]", "seeds: a seed stands twice"),
    "code of the user's": (
        "name: cifar10",
        "name: 'my.module:data'",
        ":3: recipe.data.name: 'my.module:data' would run code of yours (allow it with --allow-code)",
    ),
    "code in a teacher": (
        "architecture: resnet20, width",
        "architecture: 'my:net', width",
        ":8: recipe.distill.teachers.0.model.architecture: 'my:net' would run code",
    ),
    "an init that does not fit": (
        "init: {model: {architecture: resnet20}}",
        "init: {model: {architecture: resnet8}}",
        ":5: recipe.init.model.architecture: is resnet8, but the network it starts has resnet20",
    ),
    "a seed in the recipe": ("  data:", "  seed: 3\n  data:", ":3: recipe.seed: a study's seeds are given by `seeds`"),
    "an inherited value": ("  data:", "  optim: {epochs: 0}\n  data:", ":3: recipe.optim.epochs: must be at least 1, not 0"),
    "a teacher's own value": (
        "width: $width}}",
        "width: $width}, count: 3, optim: {epochs: -1}}",
        ":8: recipe.distill.teachers.0.optim.epochs: must be",
    ),
    "no teachers of a kind": (
        "width: $width}}",
        "width: $width}, count: 0}",
        "recipe.distill.teachers.0.count: count must be a whole number",
    ),
    "a baseline's typing error": (NO_KD, "no_kd: {distil: null}", ":24: baselines.no_kd.distil: unknown key; did you mean 'distill'?"),
    "a baseline that leaves much open": (NO_KD, "hot: {distill: {temperature: 9}}", ":24: baselines.hot: leaves $width, $coefficient"),
    "a baseline's search of nothing": (NO_KD, "a: {distill: null, search: 0}", ":24: baselines.a.search: must be a whole number from 1"),
    "a baseline's value": (
        NO_KD,
        "a: {distill: {temperature: -3}, search: 2}",
        ":24: baselines.a.distill.temperature: must be greater than 0, not -3 (with baseline a)",
    ),
    "a word for a number": ("validation: 0.1", "validation: lots", "recipe.data.validation: must be a number, not 'lots'"),
    "a yes for true": ("seeds: [0, 1]", "sampler: {name: tpe, multivariate: yes}", "stands twice"),
    "a hole within a text": ("data: {name: cifar10", "data: {name: $a/b", "'$a/b' is no hole"),
    "a constraint without sense": ("seeds: [0, 1]", "constraints: [size < 3]", "constraints.0: 'size < 3' is no constraint"),
    "null among choices": ("[1, 1.5, 2, 4]", "[1, null]", ":13: space.width.choices.1: null needs a label"),
    "an infinite end": ("low: 0.1, high: 1}", "low: 0.1, high: .inf}", "space.coefficient.high: must be a finite number"),
}


def message_of(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(path, overrides)
    text = str(caught.value)
    assert "\n" not in text and "pydantic" not in text and caught.value.exit_code == 2
    return text


@pytest.mark.parametrize("case", CASES)
def test_a_study_is_refused_for(case: str, tmp_path: Path) -> None:
    old, new, said = CASES[case]
    assert old in JOINT
    path = tmp_path / "s.yaml"
    path.write_text(JOINT.replace(old, new))
    text = message_of(path)
    assert text.startswith(str(path)) and said in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"- 1\n- 2\n", ":1: a study is a mapping with name, recipe, space …, not a list of 2"),
        (b"just words", "not 'just words'"),
        (bytes(range(256)), "is not text in UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00", "so it is not a YAML text"),
        (b"name: a\n", "recipe: is missing"),
        (b"recipe: {}\n", "name: is missing"),
        (b"name: a\nrecipe: {optim: fast}\n", ":2: recipe.optim: must be a mapping, not 'fast'"),
        (b"name: a\nrecipe: {}\nspace: nowhere\n", ":3: space: no space file 'nowhere'"),
        (b"name: a\nrecipe: {}\nspace: [3]\n", ":3: space.0: must be a mapping of parameters, or a space file's name"),
        (b"name: a\nrecipe: {model: $a}\nspace:\n  a: {choices: {x: {width: $a}}}\n", "parameter 'a' stands inside itself"),
        (b"name: a\nrecipe: {}\nspace: {a-b: {choices: [1]}}\n", "'a-b' is no name for a parameter"),
    ],
)
def test_a_file_that_is_no_study_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    assert said in message_of(path)


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "s.yaml").write_text("\n".join(lines))
    assert "once its aliases are expanded" in message_of(tmp_path / "s.yaml")


def test_a_missing_study_names_near_misses(tmp_path: Path) -> None:
    assert "did you mean 'quickstart'?" in message_of(Path("quickstrat"))
    assert "holds no study.yaml" in message_of(tmp_path)
    assert "no such file" in message_of(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("recipe.data.nmae=digits", "--set: recipe.data.nmae: unknown key; did you mean 'name'?"),
        ("recipe.data.validation=2", "--set: recipe.data.validation: must be less than 1, not 2"),
        ("budgt.trials=4", "--set: budgt: unknown key; did you mean 'budget'?"),
        ("recipe.distill.temperature.x=2", "recipe.distill.temperature: is the hole $temperature: set it in space.temperature instead"),
        ("recipe.distill.teachers.3.seed=2", "recipe.distill.teachers: is a list of 1: '3' is no index into it"),
        ("name.x=2", "name: is 'joint', so nothing can be set below it"),
        ("recipe.distill.temperature=2", "parameter 'temperature' is used nowhere"),
        ("budget.trials", "'budget.trials' is not path=value"),
        ("=3", "is not path=value"),
        ("budget.trials=[1", "is not valid YAML"),
        ("pruner=wilcoxon", ""),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(JOINT)
    if not said:
        assert load_study(path, [override]).pruner.name == "wilcoxon", "two seeds are enough"
    else:
        assert said in message_of(path, (override,))


def test_wilcoxon_needs_two_seeds(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="wilcoxon compares seeds, so it needs at least 2, not 1"):
        joint(tmp_path, overrides=("pruner=wilcoxon", "seeds=[0]"))


def test_code_is_allowed_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {architecture: 'my:net'}\n")
    with pytest.raises(SpecError, match="--allow-code"):
        load_recipe(tmp_path / "r.yaml")
    recipe, _ = load_recipe(tmp_path / "r.yaml", allow_code=True)
    assert recipe.model.architecture == "my:net"


_PIECES = st.sampled_from(
    ["$", "$x", "null", "[", "]", "{", "}", ":", "-1", "1e99", "~", "''", ", ", "*a", "&a ", "\n", "  ", "!!", "true", ".nan", "|", "0"]
)


@given(seed=st.integers(0, 2**32), pieces=st.lists(_PIECES, min_size=1, max_size=3))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_altered_study_is_loaded_or_refused_in_one_line(seed: int, pieces: list[str], tmp_path: Path) -> None:
    draw = random.Random(seed)
    text = JOINT
    for piece in pieces:
        start = draw.randrange(len(text))
        text = text[:start] + piece + text[start + draw.choice([0, 1, 5, 20]) :]
    path = tmp_path / "s.yaml"
    path.write_text(text)
    for check in (load_study, validate_file, load_recipe):
        try:
            check(path)
        except SpecError as error:
            assert "\n" not in str(error) and "pydantic" not in str(error)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["$width", "$none", "shin", "cr_step", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "choices", "low", "model", "count", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
_PATHS = [
    "name",
    "recipe",
    "recipe.data",
    "recipe.model",
    "recipe.model.width",
    "recipe.init",
    "recipe.precision",
    "recipe.precision.weights",
    "recipe.distill",
    "recipe.distill.teachers",
    "recipe.distill.teachers.0",
    "recipe.distill.teachers.0.count",
    "recipe.distill.schedule",
    "recipe.distill.hints",
    "recipe.optim",
    "space",
    "space.width",
    "space.width.choices",
    "space.weights.choices.shin",
    "space.temperature.low",
    "strata",
    "baselines",
    "baselines.no_kd",
    "baselines.no_kd.search",
    "objective",
    "sampler",
    "pruner",
    "pruner.warmup",
    "budget",
    "budget.trials",
    "seeds",
    "resources",
    "search_seed",
    "constraints",
]


@given(path=st.sampled_from(_PATHS), value=_values)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_place_is_taken_or_refused_in_one_line(path: str, value: object, tmp_path: Path) -> None:
    from kdsearch.spec.yaml_reader import dump_yaml, parse_yaml

    data = parse_yaml(JOINT, "joint").data
    here = data
    *steps, last = path.split(".")
    for step in steps:
        here = here[int(step)] if isinstance(here, list) else here[step]
    here[int(last) if isinstance(here, list) else last] = value
    file = tmp_path / "s.yaml"
    file.write_text(dump_yaml(data), "utf-8")
    try:
        load_study(file)
    except SpecError as error:
        assert "\n" not in str(error) and "pydantic" not in str(error)


RECIPE = """
data: {name: digits, validation: 0.3}
model: {architecture: resnet8, width: 0.5}
precision: {weights: {quantizer: shin, bits: 2}, activations: {quantizer: pact, bits: 4}}
init: {model: {architecture: resnet8, width: 0.5}}
distill: {teachers: [{model: {architecture: resnet8}, seed: 3}], temperature: 4, coefficient: 0.5, schedule: {name: cr_step}}
optim: {epochs: 9, batch_size: 32, learning_rate: 0.05}
seed: 7
provenance: {threads: 2, study: joint}
"""
SPACE = (Path(__file__).parent.parent.parent / "search_spaces" / "precision.yaml").read_text()


@pytest.mark.parametrize(("kind", "text"), [("study", JOINT), ("space", SPACE), ("recipe", RECIPE)], ids=["study", "space", "recipe"])
def test_a_file_with_altered_bytes_is_valid_or_exit_two_on_the_command_line(
    kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(kind)
    others = [JOINT, SPACE, RECIPE]
    file = tmp_path / "file.yaml"
    refused = 0
    for _ in range(80):
        content = text.encode()
        for _ in range(draw.choice([1, 1, 3])):
            content = damaged(content, draw, draw.choice(others).encode())
        file.write_bytes(content)
        dry = kind == "study" and draw.random() < 0.3
        command = ["run", str(file), "--dry-run"] if dry else ["validate", str(file)]
        monkeypatch.setattr(sys, "argv", ["kdsearch", *command])
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        assert code in (0, 2), (code, content)
        assert "Traceback" not in said.err and "pydantic" not in said.err
        if code == 2:
            refused += 1
            assert said.err.count("\n") == 1, said.err
    assert 30 <= refused < 80
