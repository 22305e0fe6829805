from transrec.runs.answers.click_scores import Visit as Visit
from transrec.runs.answers.query import Query as Query
from transrec.runs.recommender import Recommender as Recommender
from transrec.runs.recommender import load_adapters as load_adapters
from transrec.runs.recommender import load_run as load_run
from transrec.runs.vector_files import load_vectors as load_vectors

__version__: str
