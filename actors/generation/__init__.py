"""Sessions of coding agents for ``llm_generate``: a workspace, a sandbox, a referee, and the verdict afterwards.

``generator`` is the whole; ``workspace`` makes the folder and reads the scripts back, ``referee`` answers the agent's
``verify`` command, ``sandbox`` and ``cage`` keep the agent in, ``guard`` ends a session that uses too much. The agent
proposes three scripts; whatever else it does has no say in the verdict.
"""
