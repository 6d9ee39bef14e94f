"""valid.py DOCUMENT: whether an OpenAPI document keeps the rules of OpenAPI, and its examples those of their schemas. Prints
what is wrong, line by line, and nothing when all is well."""

import json
import sys

from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import OpenAPIV31SpecValidator

document = json.load(open(sys.argv[1]))


def resolved(value):
    while "$ref" in value:
        path, value = value["$ref"].removeprefix("#/"), document
        for name in path.split("/"):
            value = value[name]
    return value


def examples(value, path):
    """Every place that may have examples, with its schema."""
    if isinstance(value, dict):
        if "schema" in value:
            given = [example["value"] for example in value.get("examples", {}).values()]
            given += [value["example"]] if "example" in value else []
            for example in given:
                yield path, value["schema"], example
        for name, member in value.items():
            yield from examples(member, f"{path}/{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from examples(item, f"{path}/{place}")


wrong = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()]
checked = 0
for path, schema, example in examples(document, "#"):
    # What stands in an example and not in its schema would mislead as much as a wrong type.
    known = resolved(schema).get("properties", {})
    wrong += [f"{path}: {name} is not described" for name in example if known and name not in known]
    # References lead from the root of the schema.
    root = {**schema, "components": document["components"]}
    validator = OAS31Validator(root, format_checker=oas31_format_checker)
    wrong += [f"{path}: {error.message}" for error in validator.iter_errors(example)]
    checked += 1
if checked < 30:
    wrong.append(f"only {checked} examples")
print("\n".join(wrong), end="")
