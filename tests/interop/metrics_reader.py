"""What Prometheus' own parser makes of metrics: each family with its type, help and samples."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = text_string_to_metric_families(json.loads(sys.argv[1])["text"])
print(json.dumps({family.name: {"type": family.type, "help": family.documentation, "samples": len(family.samples)} for family in families}))
