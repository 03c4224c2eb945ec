"""What this server holds of one tenant's limits, and its turns at the table that all servers share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from multiflora_platform.auth.limits.bucket import Bucket, Clock, sized
from multiflora_platform.auth.limits.lease_table import LEASE_SECONDS, Granted, LeaseTable, LeaseTurn
from multiflora_platform.auth.limits.limits import (
    no_request_left,
    prompt_never_fits,
    rate_headers,
    too_few_tokens_left,
    too_many_at_once,
)
from multiflora_platform.auth.policies import UNLIMITED, Policy
from multiflora_platform.web.refusals import LimitReached

# Seats are renewed by a turn in so many seconds; two may fail before they lapse.
RENEW_SECONDS = 3.0
# What was taken of the rates and not used for so long goes back to the table.
IDLE_SECONDS = 1.0


@dataclass(eq=False)
class _Waiter:
    """A request that waits for a turn."""

    # What it wants: to be admitted, or tokens for its prompt.
    admissions: int
    tokens: int
    # Takes it of what is held, or tells why it cannot; puts it back.
    take: Callable[[], LimitReached | None]
    put_back: Callable[[], None]
    answer: asyncio.Future[None]


class Holdings:
    """Requests take of what is held; where that is too little, all that wait share the next turn. `follow` the policy
    first."""

    def __init__(self, tenant: int, server: str, table: LeaseTable, clock: Clock) -> None:
        self._tenant = tenant
        self._server = server
        self._table = table
        self._clock = clock
        self._policy = UNLIMITED
        # Requests that were admitted here and have not ended.
        self._running = 0
        # Taken of the table and not used. Tokens may be below zero: they are owed to it.
        self._seats = 0
        self._requests = 0
        self._tokens = 0.0
        # Seats that the table counts as this server's; 0 without that limit.
        self._declared = 0
        # The table counts requests or tokens as held by this server.
        self._is_lent = False
        # What the last turn left for all servers; None without that limit, or before the first turn.
        self._requests_left: Bucket | None = None
        self._tokens_left: Bucket | None = None
        self._running_everywhere = 0
        # For the next turn; those of the present one are in its task.
        self._waiting: list[_Waiter] = []
        self._turn: asyncio.Task[None] | None = None
        # Of the clock: when the last turn that was answered began, and the last request came.
        self._turned_at = -math.inf
        self._used_at = -math.inf
        # The policy has changed since the last turn: what was taken by the one before goes back.
        self._outdated = False

    def follow(self, policy: Policy) -> None:
        if policy != self._policy:
            self._policy, self._outdated = policy, True

    async def admit(self) -> None:
        """Raises LimitReached, Unavailable."""
        if self._policy.has_limits:
            await self._obtain(self._take_admission, self._put_admission_back, admissions=1)
        else:
            self._running += 1

    async def take_prompt(self, count: int) -> None:
        """Raises LimitReached, Unavailable."""
        per_minute = self._policy.tokens_per_minute
        if per_minute is None:
            return
        if count > per_minute:
            raise prompt_never_fits(count, per_minute)
        await self._obtain(partial(self._take_tokens, count), partial(self.use_tokens, -count), tokens=count)

    def use_tokens(self, count: int) -> None:
        """Below zero: they were not used after all."""
        if self._policy.tokens_per_minute is not None:
            self._tokens -= count

    def leave(self) -> None:
        """A request has ended."""
        self._running -= 1

    def headers(self) -> dict[str, str]:
        """As Limits.headers; none before the first turn."""
        found: dict[str, str] = {}
        for kind, left, held in (
            ("requests", self._requests_left, self._requests),
            ("tokens", self._tokens_left, self._tokens),
        ):
            if left is not None:
                found |= rate_headers(kind, left.per_minute, min(left.per_minute, left.level + held))
        return found

    @property
    def is_idle(self) -> bool:
        """There is nothing to tell the table, and nothing will be until the next request."""
        is_running = self._running > 0 and self._policy.has_limits
        return not (is_running or self._declared or self._is_lent or self._requests or self._tokens or self._turn)

    @property
    def has_surplus(self) -> bool:
        """Another server's requests may wait for what no request here needs."""
        if self._turn is not None:
            return False
        return (
            self._declared > self._running or self._requests > self._spare_requests or self._tokens > self._tokens_worth
        )

    @property
    def is_due(self) -> bool:
        """The table has to be told something, or told again."""
        if self._turn is not None:
            return False
        since_turn = self._clock() - self._turned_at
        lapses = self._declared > 0 and since_turn >= RENEW_SECONDS
        is_left_over = not self._is_busy and (self._is_lent or self._requests > 0 or self._tokens > 0)
        return lapses or is_left_over or self._tokens < 0 or self.has_surplus

    async def turn(self) -> None:
        """The present one, or one that begins now. Raises Unavailable."""
        await asyncio.shield(self._begin_turn())

    async def retire(self) -> None:
        """The server ends: all goes back. Raises Unavailable."""
        if self._turn is not None:
            await asyncio.wait({self._turn})
        self._used_at = -math.inf
        if self._declared or self._is_lent or self._requests or self._tokens:
            await self.turn()

    @property
    def _is_busy(self) -> bool:
        return self._clock() - self._used_at < IDLE_SECONDS

    @property
    def _requests_worth(self) -> int:
        """What is taken at once, where there is as much: a second's."""
        return max(1, (self._policy.requests_per_minute or 0) // 60)

    @property
    def _spare_requests(self) -> int:
        """What may be held while no request waits for it; of a small limit nothing."""
        return self._requests_worth if self._requests_worth > 1 else 0

    @property
    def _tokens_worth(self) -> float:
        return (self._policy.tokens_per_minute or 0) / 60

    def _take_admission(self) -> LimitReached | None:
        most_seats, per_minute = self._policy.max_concurrent_requests, self._policy.requests_per_minute
        if most_seats is not None and self._seats < 1:
            return too_many_at_once(self._running_everywhere)
        if per_minute is not None and self._requests < 1:
            return no_request_left(per_minute, _seconds_until(self._requests_left, 1))
        self._seats -= most_seats is not None
        self._requests -= per_minute is not None
        self._running += 1
        return None

    def _put_admission_back(self) -> None:
        """The seat is free with the request that has left; the turn that comes gives it back."""
        self._requests += self._policy.requests_per_minute is not None
        self._running -= 1

    def _take_tokens(self, count: int) -> LimitReached | None:
        per_minute = self._policy.tokens_per_minute
        if per_minute is not None and self._tokens < count:
            return too_few_tokens_left(per_minute, _seconds_until(self._tokens_left, count - self._tokens))
        self.use_tokens(count)
        return None

    async def _obtain(
        self,
        take: Callable[[], LimitReached | None],
        put_back: Callable[[], None],
        *,
        admissions: int = 0,
        tokens: int = 0,
    ) -> None:
        """Raises LimitReached once the table has said that there is not enough; Unavailable."""
        self._used_at = self._clock()
        if self._is_current and take() is None:
            return
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiter(admissions, tokens, take, put_back, answer))
        self._begin_turn()
        try:
            await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:
                put_back()  # it left in the moment in which it got it
            raise

    @property
    def _is_held(self) -> bool:
        """What was taken has not lapsed."""
        return self._clock() - self._turned_at < LEASE_SECONDS

    @property
    def _is_current(self) -> bool:
        return self._is_held and not self._outdated

    def _begin_turn(self) -> asyncio.Task[None]:
        if self._turn is None:
            self._turn = asyncio.create_task(self._take_turn())
            self._turn.add_done_callback(self._turned)
        return self._turn

    async def _take_turn(self) -> None:
        now, policy = self._clock(), self._policy
        waiting, self._waiting = self._waiting, []
        turn = self._next_turn(policy, waiting)
        # What is given back cannot be used meanwhile; what is used meanwhile is owed.
        self._seats, self._requests, self._tokens, self._outdated = 0, 0, 0.0, False
        try:
            granted = await self._table.take(turn)
        except Exception as error:
            self._tokens += min(turn.tokens, 0.0)
            self._turned_at = -math.inf
            for waiter in waiting:
                if not waiter.answer.done():
                    waiter.answer.set_exception(error)
            raise
        self._turned_at = now
        self._note(policy, turn, granted)
        self._answer(waiting)

    def _answer(self, waiting: list[_Waiter]) -> None:
        """In the order in which they came."""
        if self._outdated:  # the limits have changed meanwhile, and the next turn asks for all
            self._waiting = waiting + self._waiting
            return
        for waiter in waiting:
            if waiter.answer.done():
                continue  # the client has left
            refusal = waiter.take()
            if refusal is None:
                waiter.answer.set_result(None)
            else:
                waiter.answer.set_exception(refusal)

    def _next_turn(self, policy: Policy, waiting: list[_Waiter]) -> LeaseTurn:
        # What has lapsed is the table's already; what is owed is owed.
        requests, tokens = (self._requests, self._tokens) if self._is_held else (0, min(self._tokens, 0.0))
        admissions, prompts = sum(one.admissions for one in waiting), sum(one.tokens for one in waiting)
        has_seats = policy.max_concurrent_requests is not None
        return LeaseTurn(
            tenant=self._tenant,
            server=self._server,
            requests_per_minute=policy.requests_per_minute,
            tokens_per_minute=policy.tokens_per_minute,
            most_seats=policy.max_concurrent_requests,
            seats=self._running if has_seats else 0,
            requests=requests,
            tokens=tokens,
            waiting_requests=admissions,
            waiting_tokens=prompts,
            more_seats=admissions if has_seats else 0,
            more_requests=0 if policy.requests_per_minute is None else self._more_requests(requests, admissions),
            more_tokens=0.0 if policy.tokens_per_minute is None else self._more_tokens(tokens, prompts, bool(waiting)),
        )

    def _more_requests(self, held: int, wanted: int) -> int:
        """A second's worth where requests wait; else no more than is held, while they may come."""
        if wanted:
            return max(wanted, self._requests_worth)
        return min(held, self._spare_requests) if self._is_busy else 0

    def _more_tokens(self, held: float, wanted: int, is_waited_for: bool) -> float:
        if is_waited_for:
            return max(wanted, self._tokens_worth)
        return min(max(held, 0.0), self._tokens_worth) if self._is_busy else 0.0

    def _note(self, policy: Policy, turn: LeaseTurn, granted: Granted) -> None:
        self._seats, self._declared = granted.seats, turn.seats + granted.seats
        self._requests += granted.requests
        self._tokens += granted.tokens
        self._is_lent = granted.requests > turn.waiting_requests or granted.tokens > turn.waiting_tokens
        self._running_everywhere = granted.all_seats
        self._requests_left = self._refilling(self._requests_left, policy.requests_per_minute, granted.requests_left)
        self._tokens_left = self._refilling(self._tokens_left, policy.tokens_per_minute, granted.tokens_left)

    def _refilling(self, left: Bucket | None, per_minute: int | None, level: float | None) -> Bucket | None:
        """level: what the table had at the end of the turn."""
        bucket = sized(left, per_minute, self._clock)
        if bucket is not None and level is not None:
            bucket.level = level
        return bucket

    def _turned(self, turn: asyncio.Task[None]) -> None:
        self._turn = None
        if not turn.cancelled():
            turn.exception()  # those who wait for it have it, too
        if self._waiting:
            self._begin_turn()


def _seconds_until(left: Bucket | None, amount: float) -> float:
    """left: None where the limit is newer than the last turn."""
    return 1.0 if left is None else left.seconds_until(amount)
