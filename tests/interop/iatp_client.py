"""What IATP's own client makes of a gateway: its manifest read by their models, `iatp scan`, and requests as their sidecar sends them."""

import json
import sys

import httpx
from click.testing import CliRunner
from iatp.cli import cli
from iatp.models import CapabilityManifest

url = json.loads(sys.argv[1])["url"]
with httpx.Client(base_url=url, timeout=20) as client:
    manifest = CapabilityManifest(**client.get("/.well-known/agent-manifest").json())
    answers = []
    for payload in ({"task": "book"}, {"task": "pay", "card": "4532-0151-1283-0366"}):
        headers = {"X-Agent-Trace-ID": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}
        answer = client.post("/proxy", json=payload, headers=headers)
        answers.append({"status": answer.status_code, "body": answer.json(), "trace": answer.headers["X-Agent-Trace-ID"]})
scan = CliRunner().invoke(cli, ["scan", url])
print(json.dumps({
    "agent_id": manifest.agent_id,
    "trust_level": manifest.trust_level.value,
    "reversibility": manifest.capabilities.reversibility.value,
    "retention": manifest.privacy_contract.retention.value,
    "score": manifest.calculate_trust_score(),
    "answers": answers,
    "scan": scan.output,
    "scan_code": scan.exit_code,
}))
