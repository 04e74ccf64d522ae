"""What IATP's own SDK thinks of agents by their manifests: score, whether it warns, whether it quarantines."""

import json
import sys

from iatp.models import CapabilityManifest
from iatp.security import SecurityValidator

validator = SecurityValidator()
thought = []
for document in json.loads(sys.argv[1])["manifests"]:
    manifest = CapabilityManifest(**document)
    warning = validator.generate_warning_message(manifest, {})
    thought.append({
        "score": manifest.calculate_trust_score(),
        # The head is one line, and each warning another one.
        "warnings": warning.count("\n") if warning else 0,
        "quarantines": validator.should_quarantine(manifest),
    })
print(json.dumps({"thought": thought}))
