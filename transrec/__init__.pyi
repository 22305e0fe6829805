from transrec.runs.recommender import Recommender as Recommender
from transrec.runs.recommender import load_adapters as load_adapters
from transrec.runs.recommender import load_run as load_run

__version__: str
