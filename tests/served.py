"""Model repositories for the loopback Hub: a tiny network's folder, and a folder's files as a commit with a tag."""

from pathlib import Path

import torch
from hub import Hub, Repo
from tiny import tiny_config

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from train.files import save_model


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A folder as `fit` writes it; other seeds are other weights."""
    torch.manual_seed(seed)
    save_model(UNetForSemanticSegmentation(tiny_config()), UNetImageProcessor(size={"longest_edge": 32}), folder)
    return folder


def serve(hub: Hub, repo_id: str, folder: Path, tag: str) -> str:
    """Commit the files of a folder to `main`, name the commit `tag`, and return it."""
    repo = hub.repos.setdefault(("model", repo_id), Repo())
    commit = repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()})
    repo.references[tag] = commit
    return commit
