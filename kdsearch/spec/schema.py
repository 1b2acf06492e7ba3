"""JSON Schema (draft 2020-12) of studies, spaces and recipes as people write them, for an editor's YAML server.

The schema is that of the models, made looser where files are short: children leave out what they inherit, a teacher may have
``count``, a name may stand for ``{name: …}``, and in a study a ``$hole`` may stand for any value of the recipe.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

from kdsearch.spec.inherit import LARGEST_COUNT
from kdsearch.spec.options import PRUNERS, SAMPLERS
from kdsearch.spec.recipe import CIFAR_RESNETS, DATA_SETS, IMAGENET_RESNETS, USER_CODE, Recipe
from kdsearch.spec.space import NAME, ParameterSpec
from kdsearch.spec.study_model import SAFE_NAME, Study

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""pydantic leaves a bound under its own name where a validator of ours runs before it."""
_HOLE: Schema = {"type": "string", "pattern": r"^\$[A-Za-z_]\w*$", "description": "A hole: filled by the space's parameter of that name."}


def json_schema(kind: Literal["study", "space", "recipe"]) -> Schema:
    """The schema of a kind of file."""
    defs: dict[str, Schema] = {}
    if kind == "space":
        schema = _space(defs)
    elif kind == "recipe":
        defs = _recipe_defs(holes=False)
        schema = {**defs.pop("Recipe"), "title": "kdsearch recipe"}
        defs["Recipe"] = _child(schema)
        schema["properties"] = {
            **schema["properties"],
            "provenance": {"type": "object", "description": "Where it comes from; not trained on."},
        }
    else:
        schema, defs = _study()
    return {"$schema": DIALECT, "title": f"kdsearch {kind}", **schema, "$defs": defs}


def _plain(node: Any) -> Any:
    """Without the marks that concern keys only, and without titles made from field names."""
    if isinstance(node, dict):
        kept = {
            key: value for key, value in node.items() if not (key.startswith("kdsearch_") or (key == "title" and isinstance(value, str)))
        }
        return {_BOUNDS.get(key, key) if "type" in node else key: _plain(value) for key, value in kept.items()}
    return [_plain(one) for one in node] if isinstance(node, list) else node


def _recipe_defs(*, holes: bool) -> dict[str, Schema]:
    made = _plain(Recipe.model_json_schema())
    defs: dict[str, Schema] = made["$defs"]
    for definition in defs.values():  # inherited or checked together when the whole recipe is known
        definition.pop("required", None)
    names = {"Model": ("architecture", CIFAR_RESNETS + IMAGENET_RESNETS), "Data": ("name", DATA_SETS)}
    for owner, (field, known) in names.items():
        field_schema = defs[owner]["properties"][field]
        field_schema.pop("type", None)
        field_schema["anyOf"] = [{"enum": list(known)}, {"type": "string", "pattern": f"^{USER_CODE.pattern}$"}]
    schedule = defs["Distill"]["properties"]["schedule"]
    named = deepcopy(defs["Schedule"]["properties"]["name"])
    described: Schema = {key: schedule.pop(key) for key in ("description", "default") if key in schedule}
    defs["Distill"]["properties"]["schedule"] = {"anyOf": [schedule, {"enum": named["enum"]}], **described}
    count = {"type": "integer", "minimum": 1, "maximum": LARGEST_COUNT, "description": "This many teachers, their seeds 1000 apart."}
    defs["Teacher"] = deepcopy(defs["Recipe"])
    defs["Teacher"]["properties"]["count"] = count
    defs["Distill"]["properties"]["teachers"]["items"] = {"$ref": "#/$defs/Teacher"}
    if holes:
        for definition in defs.values():
            definition["properties"] = {name: _or_hole(one) for name, one in definition["properties"].items()}
    return defs


def _or_hole(schema: Schema) -> Schema:
    described: Schema = {key: schema[key] for key in ("description", "default") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in described}
    if isinstance(inner.get("items"), dict):
        inner["items"] = {"anyOf": [inner["items"], {"$ref": "#/$defs/Hole"}]}
    options = inner.pop("anyOf", None) or [inner]
    for option in options:
        if isinstance(option.get("items"), dict) and "anyOf" not in option["items"]:
            option["items"] = {"anyOf": [option["items"], {"$ref": "#/$defs/Hole"}]}
    return {"anyOf": [*options, {"$ref": "#/$defs/Hole"}], **described}


def _child(recipe: Schema) -> Schema:
    return {key: value for key, value in recipe.items() if key != "title"}


def _space(defs: dict[str, Schema]) -> Schema:
    parameter = _plain(ParameterSpec.model_json_schema(by_alias=True))
    parameter.pop("$defs", None)
    scalar = {"type": ["number", "string", "boolean"]}
    parameter["properties"]["choices"] = {
        "description": parameter["properties"]["choices"].get("description"),
        "anyOf": [{"type": "array", "items": scalar, "minItems": 1}, {"type": "object", "minProperties": 1}],
    }
    parameter["anyOf"] = [{"required": ["choices"]}, {"required": ["low", "high"]}]
    defs["Parameter"] = parameter
    return {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Parameter"}, {"type": "null"}]},
    }


def _study() -> tuple[Schema, dict[str, Schema]]:
    made = _plain(Study.model_json_schema(by_alias=True))
    defs: dict[str, Schema] = made.pop("$defs")
    defs.pop("ParameterSpec", None)
    defs |= _recipe_defs(holes=True)
    defs["Hole"] = _HOLE
    properties = made["properties"]
    properties["name"]["pattern"] = f"^{SAFE_NAME.pattern}$"
    properties["recipe"] = {"$ref": "#/$defs/Recipe", "description": properties["recipe"]["description"]}
    inline = _space(defs)
    properties["space"] = {
        "description": "Parameters, the name of a space file, or a list of those.",
        "anyOf": [inline, {"type": "string"}, {"type": "array", "items": {"anyOf": [inline, {"type": "string"}]}}],
    }
    overlay = deepcopy(defs["Recipe"])
    overlay["properties"] = {name: {} for name in overlay["properties"]} | {
        "search": {"type": "integer", "minimum": 1, "description": "Configurations tried of what the overlay leaves open."}
    }
    properties["baselines"]["additionalProperties"] = overlay
    objective = {"$ref": "#/$defs/Objective"}
    properties["objective"] = {
        "description": properties["objective"].get("description"),
        "anyOf": [objective, {"type": "array", "items": objective, "minItems": 1, "maxItems": 2}],
    }
    properties["constraints"] = {
        "description": properties["constraints"].get("description"),
        "type": "array",
        "items": {"type": "string", "pattern": r"^\s*\w+\s*(<=|>=)\s*[-+0-9.eE]+\s*$"},
    }
    for field, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        described = properties[field].get("description")
        properties[field] = {"description": described, "anyOf": [{"$ref": f"#/$defs/{field.capitalize()}"}, {"enum": list(known)}]}
    defs.pop("Constraint", None)
    return made, defs
