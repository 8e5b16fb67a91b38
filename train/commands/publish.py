"""`python -m train publish`: a trained model, a prepared data set or the page, to the Hugging Face Hub."""

from argparse import ArgumentParser

import datasets

from ..hub.publishing import publish_dataset, publish_model, publish_space


def main(options: list[str]) -> None:
    """Parse the options of `python -m train publish` and do what they say."""
    parser = ArgumentParser(prog="python -m train publish")
    kinds = parser.add_subparsers(required=True, metavar="model | dataset | space")
    model = kinds.add_parser("model", help="weights, processor, code and card")
    model.add_argument("folder", help="folder that fit wrote")
    model.add_argument("--revision", help="branch to publish to, e.g. v1; main if it is left out")
    model.add_argument("--license", help="of the weights, e.g. apache-2.0; else the card says that none is given")
    model.add_argument("--base_model", help="what was fine-tuned, for the card, you/name; else as the record says")
    model.set_defaults(publish=publish_model)
    dataset = kinds.add_parser("dataset", help="slices, masks and whose they are, in Parquet")
    dataset.add_argument("folder", help="folder that prepare wrote")
    dataset.set_defaults(publish=publish_dataset)
    space = kinds.add_parser("space", help="the page")
    space.add_argument("--model_id", required=True, help="the model that the page shows, you/name")
    space.add_argument("--static", action="store_true", help="the page that runs the model in the visitor's browser")
    space.add_argument("--runtime", help="for --static: onnxruntime-web as npm gave it, instead of asking npm")
    space.set_defaults(publish=publish_space)
    for kind in (model, space):
        kind.add_argument("--dataset_id", help="of the slices that the model was trained on, if they are on the Hub")
    for kind in (model, dataset, space):
        kind.add_argument("--repo_id", required=True, help="where to, you/name; it is created if it is not there")
        kind.add_argument("--private", action="store_true", help="create it so that you alone see it")
        kind.add_argument(
            "--dry_run", action="store_true", help="list what would be uploaded and where it comes from, and stop"
        )
    arguments = vars(parser.parse_args(options))
    datasets.disable_progress_bars()
    arguments.pop("publish")(**arguments)
