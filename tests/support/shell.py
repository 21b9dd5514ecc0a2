"""The command line in this process: what scripts see of it."""

import json

from click.testing import CliRunner

import cli


class Shell:
    """Commands on one database."""

    def __init__(self, path):
        self.env = {"SELLAPI_DATABASE": str(path), "OPENAI_API_KEY": "sk-proj-x"}

    def run(self, *words, code=0):
        result = CliRunner().invoke(cli.cli, list(words), env=self.env, prog_name="sellapi")
        assert result.exit_code == code, (words, result.output, result.stderr, result.exception)
        return result

    def json(self, *words, code=0):
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def error(self, *words, code=1):
        """What a refused command says; it prints nothing else."""
        result = self.run(*words, "--json", code=code)
        assert result.stdout == ""
        return json.loads(result.stderr)["error"]["message"]
