"""Make a prior's folder, as `generate` uses it, of the weight files of a training.

python tools/compact/assemble.py PARTS_DIR --text-encoder FOLDER --prior OUT
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from captions import vocabulary
from networks import make_prior
from weight_files import load_trained

from specularip.diffusion.loading.folder import save_prior
from specularip.diffusion.vocabulary import Vocabulary


def assemble(parts: Path, text_encoder: Path, out: Path) -> None:
    weights = sorted(parts.glob("weights-*.safetensors"))
    if not weights:
        raise SystemExit(f"{parts} holds no weights-*.safetensors")
    prior = make_prior(text_encoder, "cpu").eval()
    load_trained(prior, weights)
    shipped = Vocabulary.read(Path(str(files("specularip") / "assets" / "compact")))
    assert shipped is not None
    prior.vocabulary = replace(Vocabulary.of(vocabulary()), synonyms=shipped.synonyms)
    save_prior(prior, out, int8=True)
    size = sum(file.stat().st_size for file in out.rglob("*")) / 1e6
    print(f"{out}: {size:.1f} MB, {len(prior.vocabulary.words)} words")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", type=Path, help="folder with weights-0.safetensors and so on")
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--prior", type=Path, required=True)
    args = parser.parse_args()
    assemble(args.parts, args.text_encoder, args.prior)


if __name__ == "__main__":
    main()
