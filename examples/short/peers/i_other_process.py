"""cryptofeed 2.4.1: books that another process reads, by a Redis server that must run."""

import json
import subprocess
import sys

import redis
from cryptofeed import FeedHandler
from cryptofeed.backends.redis import BookRedis
from cryptofeed.defines import L2_BOOK
from cryptofeed.exchanges import Binance

if sys.argv[1:] == ["reader"]:
    server = redis.Redis()
    while not (rows := server.zrange("book-BINANCE-BTC-USDT", -1, -1)):
        pass
    bids = json.loads(rows[0])["book"]["bid"]
    print("the other process sees", max(bids.items(), key=lambda level: float(level[0])))
else:
    reader = subprocess.Popen([sys.executable, __file__, "reader"])
    handler = FeedHandler()
    callbacks = {L2_BOOK: BookRedis(snapshots_only=True)}
    handler.add_feed(Binance(symbols=["BTC-USDT"], channels=[L2_BOOK], callbacks=callbacks))
    handler.run()
