"""Whether the engine has to tell what it caches, and what followers hear of several lives of it."""

from __future__ import annotations

from multiflora_engine.process.cache_followers import CacheFollowers
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import CacheChanges, FollowCache

CHANGE = CacheChange(bytes(32))


class Follower:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def changed(self, changes: list[CacheChange]) -> None:
        self.heard.append(f"{len(changes)} changes")

    def cleared(self) -> None:
        self.heard.append("cleared")


def test_the_engine_tells_while_there_is_a_follower() -> None:
    sent: list[FollowCache] = []
    followers, one, other = CacheFollowers(sent.append), Follower(), Follower()
    followers.begin()
    assert sent == []
    followers.add(one)
    followers.add(other)
    followers.remove(one)
    assert sent == [FollowCache(1)]
    followers.remove(other)
    assert sent == [FollowCache(1), FollowCache(0)]


def test_one_that_was_there_before_the_engine_follows_it_from_the_beginning_and_its_successor() -> None:
    sent: list[FollowCache] = []
    followers, one = CacheFollowers(sent.append), Follower()
    followers.add(one)
    followers.begin()
    followers.take(CacheChanges(1, [CHANGE, CHANGE]))
    assert followers.count == 2
    followers.end()
    followers.end()
    followers.begin()
    followers.take(CacheChanges(2, [CHANGE]))
    assert sent == [FollowCache(1), FollowCache(2)]
    assert (one.heard, followers.count) == (["2 changes", "cleared", "1 changes"], 1)


def test_what_was_on_its_way_when_the_last_follower_left_is_not_taken_for_the_next_ones() -> None:
    sent: list[FollowCache] = []
    followers, one = CacheFollowers(sent.append), Follower()
    followers.begin()
    followers.add(one)
    followers.remove(one)
    followers.add(one)
    followers.take(CacheChanges(1, [CHANGE]))
    followers.take(CacheChanges(2, [CHANGE]))
    assert (sent[-1], one.heard, followers.count) == (FollowCache(2), ["1 changes"], 1)
