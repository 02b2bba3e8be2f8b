"""The first three pull requests of a timeline on the Docker engine; prints the steps of each.

python -m scripts.examples.three_on_the_engine prs.jsonl
"""

import sys

from actors import Synthesizer
from store.timeline import read_timeline

synth = Synthesizer(agent="none")
for row in read_timeline(sys.argv[1])[:3]:
    found = synth.run_item(row)
    print(row.name, "verified" if found else "failed", *(state.value for state in synth.trace))
