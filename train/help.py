"""How `--help` shows the options of a command."""

import copy
from argparse import Action, ArgumentDefaultsHelpFormatter


class PlainHelp(ArgumentDefaultsHelpFormatter):
    """Every option under one name, and its default where it has one."""

    def _format_action_invocation(self, action: Action) -> str:
        # `HfArgumentParser` takes --data-dir for --data_dir as well.
        if names := [name for name in action.option_strings if "-" not in name.lstrip("-")]:
            action = copy.copy(action)
            action.option_strings = names
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)
