"""`python -m train fit`: train, and publish what was trained where that is asked for."""

import shlex

from ..fitting import run
from ..fitting.options import FitArguments, FitOptions, parse_fit
from ..hub.client import check_repo_id, check_token, find_token
from ..hub.publishing import publish_model


def main(options: list[str]) -> None:
    fit(parse_fit(options))


def fit(options: FitOptions) -> dict:
    """`run.fit`; what publishing needs is looked at before the first step."""
    repo_id = options.trainer.hub_model_id if options.trainer.push_to_hub else None
    if repo_id:
        check_repo_id("--hub_model_id", repo_id)
    if options.trainer.process_index != 0:
        return run.fit(options)
    if repo_id:
        check_token(find_token(options.trainer.hub_token))
    record = run.fit(options)
    if repo_id:
        _publish(options.trainer, repo_id)
    return record


def _publish(arguments: FitArguments, repo_id: str) -> None:
    try:
        publish_model(
            arguments.output_dir,
            repo_id,
            private=bool(arguments.hub_private_repo),
            revision=arguments.hub_revision,
            token=arguments.hub_token,
        )
    except (OSError, ValueError) as error:
        command = ["python", "-m", "train", "publish", "model", arguments.output_dir]
        command += ["--repo_id", repo_id]
        command += ["--revision", arguments.hub_revision] if arguments.hub_revision else []
        command += ["--private"] if arguments.hub_private_repo else []
        raise OSError(
            f"The trained model is in {arguments.output_dir}, but it was not published: {error} To try again: "
            f"{shlex.join(command)}"
        ) from error
