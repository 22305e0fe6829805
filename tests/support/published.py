"""A small data set in the published layout of every source: six users, each with one interaction on seven days."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

USERS, ITEMS, DAYS = range(1, 7), range(1, 9), range(7)
FIRST_DAY, SECONDS_PER_DAY = 1_500_000_000, 86_400
ROWS = [(user, 1 + (user + day) % len(ITEMS), FIRST_DAY + SECONDS_PER_DAY * day) for day in DAYS for user in USERS]
SEQUENCES = {user: [item for other, item, _ in ROWS if other == user] for user in USERS}

Writer = Callable[[Path], list[object]]  # fills a folder and returns the options that read it


def _lines(path: Path, lines: Iterable[str], header: str = "") -> Path:
    path.write_text((f"{header}\n" if header else "") + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _objects(path: Path, objects: Iterable[dict]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in objects).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def _moment(seconds: int, form: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def tables(folder: Path) -> list[object]:
    _lines(folder / "items.tsv", (f"{item}\tTitle {item}" for item in ITEMS), "item_id\ttitle")
    rows = (f"{user}\t{item}\t{time}" for user, item, time in ROWS)
    _lines(folder / "interactions.tsv", rows, "user_id\titem_id\ttimestamp")
    return ["--input", folder]


def recbole(folder: Path) -> list[object]:
    _lines(folder / "x.item", (f"{item}\tTitle {item}" for item in ITEMS), "item_id:token\ttitle:token_seq")
    rows = (f"{user}\t{item}\t5\t{time}" for user, item, time in ROWS)
    _lines(folder / "x.inter", rows, "user_id:token\titem_id:token\trating:float\ttimestamp:float")
    return ["--input", folder]


def csv(folder: Path) -> list[object]:
    path = _lines(folder / "ratings.dat", (f"{user}::{item}::5::{time}" for user, item, time in ROWS))
    columns = "user_id=1,item_id=2,timestamp=4"
    return ["--interactions", path, "--separator", "::", "--no-header", "--columns", columns]


def parquet(folder: Path) -> list[object]:
    users, items, times = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"uid": users, "sku": items, "ts": times}), folder / "clicks.parquet")
    titles = [f"Title {item}" for item in ITEMS]
    pq.write_table(pa.table({"sku": list(ITEMS), "title": titles}), folder / "items.parquet")
    options = ["--interactions", folder / "clicks.parquet", "--items", folder / "items.parquet"]
    return [*options, "--columns", "user_id=uid,item_id=sku,timestamp=ts"]


def webdataset(folder: Path) -> list[object]:
    with tarfile.open(folder / "items-000000.tar", "w") as tar:
        for item in ITEMS:
            for name, text in ((f"{item:03d}.json", json.dumps({"item_id": f"{item}"})), (f"{item:03d}.txt", "Text")):
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
    rows = (f"{user},{item},{time}" for user, item, time in ROWS)
    _lines(folder / "interactions.csv", rows, "user_id,item_id,timestamp")
    return ["--input", folder]


def movielens(folder: Path) -> list[object]:
    _lines(folder / "ratings.dat", (f"{user}::{item}::5::{time}" for user, item, time in ROWS))
    _lines(folder / "movies.dat", (f"{item}::Title {item} (1995)::Drama" for item in ITEMS))
    _lines(folder / "users.dat", (f"{user}::M::25::15::85711" for user in USERS))
    return ["--input", folder]


def mind(folder: Path) -> list[object]:
    _lines(folder / "news.tsv", (f"N{item}\tsports\tsoccer\tTitle {item}\tText\thttps://x\t[]\t[]" for item in ITEMS))
    shown = [
        f"{number}\tU{user}\t{_moment(time, '%m/%d/%Y %I:%M:%S %p')}\t\tN{item}-1 N{1 + item % len(ITEMS)}-0"
        for number, (user, item, time) in enumerate(ROWS, 1)
    ]
    _lines(folder / "behaviors.tsv", shown)
    return ["--input", folder]


def hm(folder: Path) -> list[object]:
    _lines(
        folder / "articles.csv",
        (f"{item},1,Top {item},Vest top,Black,Jersey,Soft" for item in ITEMS),
        "article_id,product_code,prod_name,product_type_name,colour_group_name,department_name,detail_desc",
    )
    bought = (f"{_moment(time, '%Y-%m-%d')},c{user},{item},0.05,2" for user, item, time in ROWS)
    _lines(folder / "transactions_train.csv", bought, "t_dat,customer_id,article_id,price,sales_channel_id")
    _lines(folder / "customers.csv", (f"c{user},30" for user in USERS), "customer_id,age")
    return ["--input", folder]


def amazon_reviews(folder: Path) -> list[object]:
    _objects(folder / "meta_Toys.jsonl.gz", ({"parent_asin": f"B{item}", "title": f"Toy {item}"} for item in ITEMS))
    _objects(
        folder / "Toys.jsonl.gz",
        (
            {"user_id": f"A{user}", "parent_asin": f"B{item}", "rating": 5.0, "timestamp": 1000 * time}
            for user, item, time in ROWS
        ),
    )
    return ["--input", folder]


def adressa(folder: Path) -> list[object]:
    events = ({"userId": f"u{u}", "id": f"a{item}", "title": f"Tittel {item}", "time": time} for u, item, time in ROWS)
    _objects(folder / "20170101.gz", events)
    return ["--input", folder]


def ninerec(folder: Path) -> list[object]:
    _lines(folder / "QB_item.csv", (f"v{item},题 {item},Title {item}" for item in ITEMS))
    _lines(folder / "QB_pair.csv", (f"u{user},v{item},{time}" for user, item, time in ROWS))
    return ["--input", folder]


def tenrec(folder: Path) -> list[object]:
    header = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age"
    path = _lines(folder / "QB-video.csv", (f"{user},{item},1,0,0,0,1,1,1,4" for user, item, _ in ROWS), header)
    return ["--input", path]


def microlens(folder: Path) -> list[object]:
    pairs = (f"{user},{item},{1000 * time}" for user, item, time in ROWS)
    _lines(folder / "MicroLens-100k_pairs.csv", pairs, "user,item,timestamp")
    _lines(folder / "MicroLens-100k_title_en.csv", (f"{item},Title {item}" for item in ITEMS))
    return ["--input", folder]


def pixelrec(folder: Path) -> list[object]:
    (folder / "pixelrec_interaction").mkdir()
    (folder / "pixelrec_iteminfo").mkdir()
    rows = (f"i{item},u{user},{time}" for user, item, time in ROWS)
    _lines(folder / "pixelrec_interaction" / "Pixel200K.csv", rows, "item_id,user_id,timestamp")
    described = (f"i{item},5,1,标题 {item},舞蹈,说明" for item in ITEMS)
    header = "item_id,view_number,comment_number,title,tag,description"
    _lines(folder / "pixelrec_iteminfo" / "Pixel200K.csv", described, header)
    return ["--input", folder]


def ebnerd(folder: Path) -> list[object]:
    moment, ids, texts = pa.timestamp("us"), pa.list_(pa.int32()), [f"Titel {item}" for item in ITEMS]
    articles = dict.fromkeys(("title", "subtitle", "body", "category_str", "article_type"), texts)
    pq.write_table(pa.table({"article_id": list(ITEMS)} | articles), folder / "articles.parquet")
    split, (users, items, times) = folder / "train", zip(*ROWS, strict=True)
    split.mkdir()
    shown = {
        "user_id": pa.array(users),
        "impression_time": pa.array([1_000_000 * time for time in times], moment),
        "article_ids_inview": pa.array([[item, 1 + item % len(ITEMS)] for item in items], ids),
        "article_ids_clicked": pa.array([[item] for item in items], ids),
        **{name: pa.array([1] * len(users)) for name in ("is_subscriber", "gender", "postcode", "age")},
    }
    pq.write_table(pa.table(shown), split / "behaviors.parquet")
    none = {"article_id_fixed": pa.array([[] for _ in USERS], ids)}
    none |= {"impression_time_fixed": pa.array([[] for _ in USERS], pa.list_(moment))}
    pq.write_table(pa.table({"user_id": pa.array(list(USERS))} | none), split / "history.parquet")
    return ["--input", folder, "--splits", "train"]


def kuairec(folder: Path) -> list[object]:
    watched = (f"{u},{i},9,9,2020-07-05 00:08:23.438,20200705,{time}.5,2.5" for u, i, time in ROWS)
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
    _lines(folder / "big_matrix.csv", watched, header)
    _lines(
        folder / "kuairec_caption_category.csv",
        (f"{item},Cover {item},Caption {item},[tag],1,a,2,b,3,c" for item in ITEMS),
        "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
        "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name",
    )
    _lines(folder / "item_categories.csv", (f"{item},[8]" for item in ITEMS), "video_id,feat")
    _lines(folder / "user_features.csv", (f"{user},full_active" for user in USERS), "user_id,user_active_degree")
    return ["--input", folder]


def kuairand(folder: Path) -> list[object]:
    labels = "is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view"
    _lines(
        folder / "log_standard_4_08_to_4_21_pure.csv",
        (f"{u},{i},20220421,400,{1000 * time},1,0,0,0,0,0,1,15,10,0,0,0,0,1" for u, i, time in ROWS),
        f"user_id,video_id,date,hourmin,time_ms,{labels},play_time_ms,duration_ms,profile_stay_time,"
        "comment_stay_time,is_profile_enter,is_rand,tab",
    )
    _lines(
        folder / "video_features_basic_pure.csv",
        (f"{item},1,NORMAL,2022-04-01,x,1.0,10.0,720,1280,3,9.0,6" for item in ITEMS),
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
        "music_id,music_type,tag",
    )
    _lines(folder / "user_features_pure.csv", (f"{user},full" for user in USERS), "user_id,user_active_degree")
    return ["--input", folder]


def amazon_m2(folder: Path) -> list[object]:
    sessions = (f"{str([f'B{item}' for item in items[:-1]])!r}".strip('"') for items in SEQUENCES.values())
    rows = [
        f'"{session.replace(",", "")}",B{items[-1]},UK'
        for session, items in zip(sessions, SEQUENCES.values(), strict=True)
    ]
    _lines(folder / "sessions_train.csv", rows, "prev_items,next_item,locale")
    header = "id,locale,title,price,brand,color,size,model,material,author,desc"
    _lines(folder / "products_train.csv", (f"B{item},UK,Pot {item},9.99,,,,,,,Heavy" for item in ITEMS), header)
    return ["--input", folder]


def goodreads(folder: Path) -> list[object]:
    _objects(folder / "goodreads_books_poetry.json.gz", ({"book_id": f"{i}", "title": f"Book {i}"} for i in ITEMS))
    form = "%a %b %d %H:%M:%S +0000 %Y"
    _objects(
        folder / "goodreads_interactions_poetry.json.gz",
        (
            {"user_id": f"u{user}", "book_id": f"{item}", "rating": 4, "date_added": _moment(time, form)}
            for user, item, time in ROWS
        ),
    )
    return ["--input", folder]


def yelp(folder: Path) -> list[object]:
    shops = ({"business_id": f"b{item}", "name": f"Café {item}", "categories": "Food"} for item in ITEMS)
    _objects(folder / "yelp_academic_dataset_business.json", shops)
    _objects(
        folder / "yelp_academic_dataset_review.json",
        (
            {"user_id": f"u{u}", "business_id": f"b{i}", "stars": 3.0, "date": _moment(time, "%Y-%m-%d %H:%M:%S")}
            for u, i, time in ROWS
        ),
    )
    return ["--input", folder]


def steam(folder: Path) -> list[object]:
    _lines(folder / "steam_games.json", (f"{{u'app_name': u'Game {item}', u'id': u'{item}'}}" for item in ITEMS))
    reviews = (
        f"{{u'username': u'U{user}', u'product_id': u'{item}', u'date': u'{_moment(time, '%Y-%m-%d')}'}}"
        for user, item, time in ROWS
    )
    _lines(folder / "steam_new.json", reviews)
    return ["--input", folder]


def transrec_tsv(folder: Path) -> list[object]:
    users = _lines(
        folder / "users.tsv", (f"u{u}\t" + " ".join(f"i{i}" for i in items) for u, items in SEQUENCES.items())
    )
    items = _lines(folder / "items.tsv", (f"i{item}\tTitle {item}" for item in ITEMS))
    return ["--users", users, "--items", items]


def sequences(folder: Path) -> list[object]:
    rows = (f"{user} {' '.join(map(str, items))}" for user, items in SEQUENCES.items())
    return ["--input", _lines(folder / "Beauty.txt", rows)]


def synthetic(folder: Path) -> list[object]:
    return ["--users", 6, "--items", 8, "--interactions", 60]


def sample(folder: Path) -> list[object]:
    return []


WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (
        tables, recbole, csv, parquet, webdataset, movielens, mind, hm, amazon_reviews, adressa, ninerec,
        tenrec, microlens, pixelrec, ebnerd, kuairec, kuairand, amazon_m2, goodreads, yelp, steam,
        transrec_tsv, sequences, synthetic, sample,
    )
}  # fmt: skip
