"""Write about.json into the card of a trained model again: what is said of it by who has read its replies.

Usage: python models/recipe/describe.py MODEL, in the repository's root.
"""

import json
import sys
from pathlib import Path

from dialogue_service.training import card


def main(folder: Path) -> None:
    """Everything that was measured stays as it is."""
    content = json.loads((folder / "card.json").read_text("utf-8"))
    kept = {key: value for key, value in content.items() if key not in card.ABOUT_KEYS}
    card.write(folder, kept | card.read_about(Path(__file__).with_name("about.json")))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
