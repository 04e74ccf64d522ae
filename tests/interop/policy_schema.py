"""Reads {"schema": path, "bundles": [[name, json]...]} from standard input; prints, for each, whether the schema accepts it."""

import json
import sys

import jsonschema

given = json.load(sys.stdin)
schema = json.load(open(given["schema"]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
print(json.dumps([[name, validator.is_valid(bundle)] for name, bundle in given["bundles"]]))
