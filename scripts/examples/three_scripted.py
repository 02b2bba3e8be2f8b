"""Three pull requests, judged by a function instead of the Docker engine; prints the steps of each."""

from actors import DockerContext, Synthesizer
from events.work import PullRequest


def verify(pull_request: PullRequest, context: DockerContext) -> bool:  # noqa: ARG001 - it looks at the number only
    return pull_request.issue_number != 3


synth = Synthesizer(store="memory:", verifier=verify)
pins = {"sha": "abc123def456", "env_payload": '{"dependencies": ["numpy==1.26.0"]}', "python_version": "3.11"}
for number in (1, 2, 3):
    found = synth.run_item({"owner": "o", "repo": "r", "issue_number": number, **pins})
    print(f"o/r#{number}", "verified" if found else "failed", *(state.value for state in synth.trace))
