# What a book amounts to: its prices, fills, depth, imbalance and groups.
#
# Rule 1: under the lock the levels are walked (walks.pxi), not copied. Two rare arguments copy them and leave the rest
#         to `ldc.analytics.exact`: a number past 64 bits, and a step or a price finer than the book's prices can be.
# Rule 2: a float is rounded once, from the exact result. Decimals and texts are finished by `ldc.analytics.exact`.

cdef enum:
    STACK_GROUPS = 64           # `grouped` of no more groups allocates nothing but its result
    BPS_DECIMALS_MAX = 12       # of an argument `bps` that C can do

cdef struct Amount:
    # An exact number that an argument means: units / 10**decimals, without zeros at its end.
    int64_t units               # -1: it is past int64, and in Python's hands
    int32_t decimals


# ----------------------------------------------------------------------------------------------------- amounts

cdef object read_amount(object value, str name, Amount* amount):
    """Read an argument, which must be above 0. Return None, or the `Exact` that is past int64."""
    cdef double number, scaled
    cdef int64_t units
    cdef int32_t decimals
    if type(value) is int and 0 < value <= INT64_MAX:
        amount.units = value
        amount.decimals = 0
        return None
    if isinstance(value, float):
        number = value
        # Fifteen digits mean one double each. So what they are, divided, the repr of the double is as well.
        if 1e-7 < number < 1e7:
            scaled = number * 1e8
            units = <int64_t>(scaled + 0.5)
            if <double>units / 1e8 == number:
                decimals = 8
                while decimals > 0 and units % 10 == 0:
                    units //= 10
                    decimals -= 1
                amount.units = units
                amount.decimals = decimals
                return None
    return take_amount(exact.positive(value, name), amount)


cdef object take_amount(object found, Amount* amount):
    if found[0] > INT64_MAX:
        amount.units = -1
        amount.decimals = 0
        return found
    amount.units = found[0]
    amount.decimals = found[1]
    return None


cdef object amount_as_exact(const Amount* amount, object past_int64):
    return past_int64 if past_int64 is not None else exact.Exact(amount.units, amount.decimals)


cdef inline bint amount_at(const Amount* amount, int32_t scale, Wide* whole) noexcept nogil:
    """Bring an amount to units of a scale of at most 36 decimals; True: a fraction of a unit is left."""
    cdef int32_t steps
    wide_set(whole, amount.units)
    if amount.decimals <= scale:
        steps = scale - amount.decimals
        if steps > 18:
            wide_multiply(whole, POW10[18])
            steps -= 18
        wide_multiply(whole, POW10[steps])
        return False
    steps = amount.decimals - scale
    if steps > 18:
        wide_set(whole, 0)
        return True
    wide_set(whole, amount.units // POW10[steps])
    return amount.units % POW10[steps] != 0


# ----------------------------------------------------------------------------------------------------- results

cdef object fill_floats(
    const Taken* taken, int64_t sign, double quantity, const Wide* notional, double average, int32_t price_scale,
    int32_t quantity_scale
):
    return new_record(Fill, (
        quantity,
        sum_float(notional, price_scale + quantity_scale),
        average,
        units_float(sign * taken.worst_key, price_scale),
        taken.levels,
        taken.is_complete,
    ))


cdef object finish_fill(
    const Taken* taken, int64_t sign, const Amount* amount, object past_int64, bint by_notional, int32_t price_scale,
    int32_t quantity_scale, object number
):
    """Return a `Fill`: floats here where no unit of the book is divided, everything else by `exact.finish_fill`."""
    cdef Wide quantity = taken.quantity, notional = taken.notional, divisor, whole
    cdef uint64_t price = <uint64_t>(sign * taken.worst_key) if taken.levels != 0 else 0
    cdef double quantity_float = 0.0, average
    cdef bint fits = number is float and taken.levels != 0 and past_int64 is None
    if fits and taken.is_partial:
        fits = amount.decimals <= (price_scale + quantity_scale if by_notional else quantity_scale)
        if fits and by_notional:
            # The quantity is (whole levels x price + the notional that is left) / price.
            amount_at(amount, price_scale + quantity_scale, &whole)
            divisor = notional
            notional = whole
            wide_subtract(&whole, &divisor)
            fits = wide_multiply(&quantity, price)
            wide_add_wide(&quantity, &whole)
            wide_set(&divisor, price)
            wide_multiply(&divisor, POW10[quantity_scale])
            if fits:
                quantity_float = ratio_float(&quantity, &divisor)
                whole = notional
                fits = wide_multiply(&whole, price) and wide_multiply(&quantity, POW10[price_scale])
            if fits:
                average = ratio_float(&whole, &quantity)
                return fill_floats(taken, sign, quantity_float, &notional, average, price_scale, quantity_scale)
        elif fits:
            amount_at(amount, quantity_scale, &whole)
            wide_subtract(&whole, &quantity)
            wide_add_wide(&quantity, &whole)
            wide_add_product(&notional, price, whole.words[0])
    if fits:
        quantity_float = sum_float(&quantity, quantity_scale)
        divisor = quantity
        wide_multiply(&divisor, POW10[price_scale])
        average = ratio_float(&notional, &divisor)
        return fill_floats(taken, sign, quantity_float, &notional, average, price_scale, quantity_scale)
    return exact.finish_fill(
        exact.Take(
            wide_object(&taken.quantity), wide_object(&taken.notional), taken.levels,
            price if taken.levels != 0 else None, taken.is_partial, taken.is_complete,
        ),
        amount_as_exact(amount, past_int64), by_notional, price_scale, quantity_scale, number,
    )


# ------------------------------------------------------------------------------------------------ from a book

cdef inline const BookSide* side_named(OrderBook book, object side, int64_t* sign) except NULL:
    if side == "bids":
        sign[0] = -1
        return &book._bids
    if side == "asks":
        sign[0] = 1
        return &book._asks
    raise ValueError(f'side must be "bids" or "asks", not {side!r}')


cdef inline bint is_exactly_one(str method, object one, object other, str name, str other_name) except -1:
    if (one is None) == (other is None):
        raise TypeError(f"{method} takes exactly one of {name} and {other_name}")
    return True


cdef object known_side(const Level* levels, int32_t count, str name, bint has_horizon, int64_t horizon):
    return exact.KnownSide(
        name, [(levels[index].price, levels[index].quantity) for index in range(count)],
        horizon if has_horizon else None)


cdef object known_book(OrderBook book, bint with_bids, bint with_asks, int64_t* last_update_id):
    """Copy the levels inside the horizons for Python: an `exact.KnownBook`. Raise as a read of these sides."""
    cdef Level* bids = NULL
    cdef Level* asks = NULL
    cdef int32_t bid_count = 0, ask_count = 0, price_scale = 0, quantity_scale = 0
    cdef bint has_bid_horizon = False, has_ask_horizon = False
    cdef int64_t bid_horizon = 0, ask_horizon = 0
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    mutex_lock(&book._mutex)
    state = state_of_sides(book, with_bids, with_asks, &refusal)
    if state == READABLE:
        bids = <Level*>malloc((book._bids.known_count + 1) * sizeof(Level))
        asks = <Level*>malloc((book._asks.known_count + 1) * sizeof(Level))
        if bids != NULL and asks != NULL:
            bid_count = side_best_levels(&book._bids, INT32_MAX, True, bids, -1)
            ask_count = side_best_levels(&book._asks, INT32_MAX, True, asks, 1)
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    has_bid_horizon = book._bids.has_horizon
    has_ask_horizon = book._asks.has_horizon
    bid_horizon = -book._bids.horizon_key
    ask_horizon = book._asks.horizon_key
    last_update_id[0] = book._place.last_update_id
    mutex_unlock(&book._mutex)
    try:
        if state != READABLE:
            refuse_read(book, state, &refusal)
        if bids == NULL or asks == NULL:
            raise MemoryError()
        return exact.KnownBook(
            known_side(bids, bid_count, "bids", has_bid_horizon, bid_horizon),
            known_side(asks, ask_count, "asks", has_ask_horizon, ask_horizon),
            price_scale, quantity_scale,
        )
    finally:
        free(bids)
        free(asks)


cdef inline ReadState state_of_sides(
    OrderBook book, bint with_bids, bint with_asks, Refusal* refusal
) noexcept nogil:
    """Whether these sides can be read. Under the lock."""
    cdef ReadState state = state_of_book(book, refusal)
    if state == READABLE and with_bids and has_left(book, &book._bids, refusal):
        return LEFT_HORIZON
    if state == READABLE and with_asks and has_left(book, &book._asks, refusal):
        return LEFT_HORIZON
    return state


cdef object refuse_more(OrderBook book, int64_t last_update_id, str side, int64_t horizon, int32_t price_scale):
    """Raise that an answer needs what lies past a horizon."""
    raise refused_for_more(
        book.market, Cause.LEFT_HORIZON, last_update_id, side, units_float(horizon, price_scale))


cdef object refuse_past(OrderBook book, object known, str side, int64_t last_update_id):
    """The same, after Python has found it."""
    return refuse_more(book, last_update_id, side, known.side(side).horizon, known.price_decimals)


cdef struct Tops:
    Level bid
    Level ask
    bint is_empty
    int32_t price_scale


cdef Tops read_tops(OrderBook book) except *:
    """Return the best level of both sides, of one moment; raise as a read of both."""
    cdef Tops tops
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    tops.bid.price = tops.bid.quantity = tops.ask.price = tops.ask.quantity = 0
    mutex_lock(&book._mutex)
    state = state_of_both(book, False, &refusal)
    tops.is_empty = state != READABLE or book._bids.known_count == 0 or book._asks.known_count == 0
    if not tops.is_empty:
        tops.bid.price = -book._bids.slots[0].block.keys[0]
        tops.bid.quantity = book._bids.slots[0].block.quantities[0]
        tops.ask.price = book._asks.slots[0].block.keys[0]
        tops.ask.quantity = book._asks.slots[0].block.quantities[0]
    tops.price_scale = book._price_scale
    mutex_unlock(&book._mutex)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    return tops


cdef double mid_float(const Tops* tops) except? -1.0:
    cdef Wide numerator, denominator
    wide_set(&numerator, <uint64_t>tops.bid.price + <uint64_t>tops.ask.price)
    wide_set(&denominator, 2 * <uint64_t>POW10[tops.price_scale])
    return ratio_float(&numerator, &denominator)


cdef double micro_price_float(const Tops* tops) except? -1.0:
    cdef Wide numerator, denominator
    wide_set(&numerator, 0)
    wide_add_product(&numerator, tops.bid.price, tops.ask.quantity)
    wide_add_product(&numerator, tops.ask.price, tops.bid.quantity)
    wide_set(&denominator, 0)
    wide_add_product(
        &denominator, <uint64_t>tops.bid.quantity + <uint64_t>tops.ask.quantity, POW10[tops.price_scale])
    return ratio_float(&numerator, &denominator)


cdef object read_mid(OrderBook book):
    cdef Tops tops = read_tops(book)
    return None if tops.is_empty else mid_float(&tops)


cdef object read_spread(OrderBook book):
    cdef Tops tops = read_tops(book)
    return None if tops.is_empty else units_float(tops.ask.price - tops.bid.price, tops.price_scale)


cdef object read_micro_price(OrderBook book):
    cdef Tops tops = read_tops(book)
    return None if tops.is_empty else micro_price_float(&tops)


cdef object read_prices(OrderBook book, object number):
    cdef Tops tops
    number_type(number)
    tops = read_tops(book)
    if tops.is_empty:
        return None
    if number is float:
        return new_record(Prices, (
            mid_float(&tops), units_float(tops.ask.price - tops.bid.price, tops.price_scale),
            micro_price_float(&tops)))
    return exact.finish_prices(
        tops.bid.price, tops.bid.quantity, tops.ask.price, tops.ask.quantity, tops.price_scale, number)


cdef ReadState take_from(
    OrderBook book, const BookSide* side, int64_t sign, const Amount* amount, bint by_notional, Taken* taken,
    int32_t* price_scale, int32_t* quantity_scale, SideLook* look, Refusal* refusal
) noexcept:
    """Walk a side under the lock. What is in `look` of the side's memory is not valid after it."""
    cdef Wide wanted
    cdef bint has_fraction
    cdef ReadState state = NOT_LOADED
    mutex_lock(&book._mutex)
    price_scale[0] = book._price_scale
    quantity_scale[0] = book._quantity_scale
    state = state_of_side(book, side, False, refusal)
    if state == READABLE:
        look[0] = look_at(side, sign)
        if by_notional:
            has_fraction = amount_at(amount, book._price_scale + book._quantity_scale, &wanted)
            walk_notional(look, wanted, has_fraction, taken)
        else:
            has_fraction = amount_at(amount, book._quantity_scale, &wanted)
            walk_quantity(look, wanted, has_fraction, taken)
    mutex_unlock(&book._mutex)
    return state


cdef object read_fill(OrderBook book, object side, object quantity, object notional, object number):
    cdef int64_t sign = 0, last_update_id = 0
    cdef const BookSide* of_book
    cdef Amount amount
    cdef Taken taken
    cdef SideLook look
    cdef Refusal refusal
    cdef ReadState state
    cdef int32_t price_scale = 0, quantity_scale = 0
    cdef bint by_notional = quantity is None
    is_exactly_one("fill", quantity, notional, "quantity", "notional")
    of_book = side_named(book, side, &sign)
    if by_notional:
        past_int64 = read_amount(notional, "notional", &amount)
    else:
        past_int64 = read_amount(quantity, "quantity", &amount)
    number_type(number)
    if past_int64 is not None:
        known = known_book(book, sign < 0, sign > 0, &last_update_id)
        return exact.fill(known, side, past_int64, by_notional=by_notional, number=number)
    state = take_from(
        book, of_book, sign, &amount, by_notional, &taken, &price_scale, &quantity_scale, &look, &refusal)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    return finish_fill(&taken, sign, &amount, None, by_notional, price_scale, quantity_scale, number)


cdef object read_price_at(OrderBook book, object side, object quantity, object notional, object number):
    cdef int64_t sign = 0, last_update_id = 0
    cdef const BookSide* of_book
    cdef Amount amount
    cdef Taken taken
    cdef SideLook look
    cdef Refusal refusal
    cdef ReadState state
    cdef int32_t price_scale = 0, quantity_scale = 0
    cdef bint by_notional = quantity is None
    is_exactly_one("price_at", quantity, notional, "quantity", "notional")
    of_book = side_named(book, side, &sign)
    if by_notional:
        past_int64 = read_amount(notional, "notional", &amount)
    else:
        past_int64 = read_amount(quantity, "quantity", &amount)
    number_type(number)
    if past_int64 is not None:
        known = known_book(book, sign < 0, sign > 0, &last_update_id)
        try:
            return exact.price_at(known, side, past_int64, by_notional=by_notional, number=number)
        except exact.PastHorizon as past:
            needed = past.side
        refuse_past(book, known, needed, last_update_id)
    state = take_from(
        book, of_book, sign, &amount, by_notional, &taken, &price_scale, &quantity_scale, &look, &refusal)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    if not taken.is_complete:
        if look.has_horizon:
            refuse_more(book, refusal.last_update_id, side, sign * look.horizon_key, price_scale)
        return None
    if number is float:
        return units_float(sign * taken.worst_key, price_scale)
    return exact.sum_as(sign * taken.worst_key, price_scale, number)


cdef bint bound_price(const Amount* price, int32_t price_scale, Bound* bound) noexcept nogil:
    """Make a price a bound; its decimals are at most 18."""
    wide_set(&bound.limit, price.units)
    wide_multiply(&bound.limit, POW10[price_scale])
    bound.factor = POW10[price.decimals]
    bound.is_below_zero = False
    return True


cdef bint bound_bps(OrderBook book, const Amount* bps, int64_t sign, Bound* bound) noexcept nogil:
    """Make a distance from mid a bound; False: a side is empty. Under the lock. See `can_do_bps`."""
    cdef uint64_t one = POW10[4 + bps.decimals], both
    if book._bids.known_count == 0 or book._asks.known_count == 0:
        return False
    both = <uint64_t>-book._bids.slots[0].block.keys[0] + <uint64_t>book._asks.slots[0].block.keys[0]
    bound.is_below_zero = sign < 0 and <uint64_t>bps.units > one
    wide_set(&bound.limit, both)
    if not bound.is_below_zero:
        wide_multiply(&bound.limit, one - <uint64_t>bps.units if sign < 0 else one + <uint64_t>bps.units)
    bound.factor = 2 * one
    return True


cdef inline bint can_do_bps(const Amount* bps) noexcept nogil:
    return bps.units >= 0 and bps.decimals <= BPS_DECIMALS_MAX


cdef object read_depth(OrderBook book, object side, object to_price, object bps, object number):
    cdef int64_t sign = 0, last_update_id = 0
    cdef const BookSide* of_book
    cdef Amount amount
    cdef SideLook look
    cdef Bound bound
    cdef Sums sums
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    cdef int32_t price_scale = 0, quantity_scale = 0
    cdef bint has_mid = True, with_bps = to_price is None, can_do
    is_exactly_one("depth", to_price, bps, "to_price", "bps")
    of_book = side_named(book, side, &sign)
    if with_bps:
        past_int64 = read_amount(bps, "bps", &amount)
        can_do = past_int64 is None and can_do_bps(&amount)
    else:
        past_int64 = take_amount(exact.price_bound(to_price), &amount)
        can_do = past_int64 is None and amount.decimals <= 18
    number_type(number)
    if not can_do:
        known = known_book(book, with_bps or sign < 0, with_bps or sign > 0, &last_update_id)
        argument = amount_as_exact(&amount, past_int64)
        return exact.depth(known, side, None if with_bps else argument, argument if with_bps else None, number)
    mutex_lock(&book._mutex)
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    state = state_of_sides(book, with_bps or sign < 0, with_bps or sign > 0, &refusal)
    if state == READABLE:
        look = look_at(of_book, sign)
        has_mid = bound_bps(book, &amount, sign, &bound) if with_bps else bound_price(&amount, price_scale, &bound)
        if has_mid:
            walk_to_bound(&look, &bound, &sums)
    mutex_unlock(&book._mutex)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    if not has_mid:
        return None
    if number is float:
        return new_record(Depth, (
            sum_float(&sums.quantity, quantity_scale), sum_float(&sums.notional, price_scale + quantity_scale),
            sums.levels, sums.is_complete))
    return exact.finish_depth(
        exact.Total(wide_object(&sums.quantity), wide_object(&sums.notional), sums.levels, sums.is_complete),
        price_scale, quantity_scale, number)


cdef object finish_imbalance(const Wide* bids, const Wide* asks, object number):
    cdef Wide total = bids[0], difference
    cdef bint is_negative = wide_less(bids, asks)
    cdef double value
    wide_add_wide(&total, asks)
    if wide_is_zero(&total):
        return None
    if number is not float:
        return exact.finish_imbalance(wide_object(bids), wide_object(asks), number)
    difference = asks[0] if is_negative else bids[0]
    wide_subtract(&difference, bids if is_negative else asks)
    value = ratio_float(&difference, &total)
    return -value if is_negative else value


cdef object read_imbalance(OrderBook book, object levels, object bps, object number):
    cdef int64_t last_update_id = 0
    cdef Amount amount
    cdef SideLook bids, asks
    cdef Bound bid_bound, ask_bound
    cdef Sums bid_sums, ask_sums
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    cdef int32_t price_scale = 0, wanted = 0
    cdef bint has_mid = True, with_bps = levels is None, bids_known = True, asks_known = True
    is_exactly_one("imbalance", levels, bps, "levels", "bps")
    if with_bps:
        past_int64 = read_amount(bps, "bps", &amount)
        number_type(number)
        if past_int64 is not None or not can_do_bps(&amount):
            known = known_book(book, True, True, &last_update_id)
            try:
                return exact.imbalance(known, None, amount_as_exact(&amount, past_int64), number)
            except exact.PastHorizon as past:
                needed = past.side
            refuse_past(book, known, needed, last_update_id)
    else:
        wanted = <int32_t>min(exact.count_of(levels, "levels", 1), INT32_MAX)
        number_type(number)
    mutex_lock(&book._mutex)
    price_scale = book._price_scale
    state = state_of_both(book, False, &refusal)
    if state == READABLE:
        bids = look_at(&book._bids, -1)
        asks = look_at(&book._asks, 1)
        if with_bps:
            has_mid = bound_bps(book, &amount, -1, &bid_bound) and bound_bps(book, &amount, 1, &ask_bound)
            if has_mid:
                walk_to_bound(&bids, &bid_bound, &bid_sums)
                walk_to_bound(&asks, &ask_bound, &ask_sums)
                bids_known = bid_sums.is_complete
                asks_known = ask_sums.is_complete
        else:
            bids_known = not bids.has_horizon or bids.count >= wanted
            asks_known = not asks.has_horizon or asks.count >= wanted
            walk_levels(&bids, wanted, &bid_sums.quantity)
            walk_levels(&asks, wanted, &ask_sums.quantity)
    mutex_unlock(&book._mutex)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    if not has_mid:
        return None
    if not bids_known:
        refuse_more(book, refusal.last_update_id, "bids", -bids.horizon_key, price_scale)
    if not asks_known:
        refuse_more(book, refusal.last_update_id, "asks", asks.horizon_key, price_scale)
    return finish_imbalance(&bid_sums.quantity, &ask_sums.quantity, number)


cdef object finish_groups(
    const Group* groups, int32_t count, int32_t price_scale, int32_t quantity_scale, object number
):
    cdef tuple result = PyTuple_New(count)
    cdef tuple pair
    cdef Wide price
    cdef int32_t index
    for index in range(count):
        if number is float:
            wide_set(&price, groups[index].price)
            pair = (sum_float(&price, price_scale), sum_float(&groups[index].quantity, quantity_scale))
        else:
            pair = (
                exact.sum_as(groups[index].price, price_scale, number),
                exact.sum_as(wide_object(&groups[index].quantity), quantity_scale, number),
            )
        Py_INCREF(pair)
        PyTuple_SET_ITEM(result, index, pair)
    return result


cdef object read_grouped(OrderBook book, object side, object step, object limit, object number):
    cdef int64_t sign = 0, last_update_id = 0
    cdef const BookSide* of_book
    cdef Amount amount
    cdef SideLook look
    cdef Group stack[STACK_GROUPS]
    cdef Group* groups = stack
    cdef Wide width
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    cdef int32_t price_scale = 0, quantity_scale = 0, wanted, count = 0, room
    cdef bint can_do
    of_book = side_named(book, side, &sign)
    past_int64 = read_amount(step, "step", &amount)
    wanted = limit_of(limit)
    number_type(number)
    can_do = past_int64 is None
    if can_do:
        mutex_lock(&book._mutex)
        price_scale = book._price_scale
        quantity_scale = book._quantity_scale
        state = state_of_side(book, of_book, False, &refusal)
        if state == READABLE:
            can_do = not amount_at(&amount, price_scale, &width)
            can_do = can_do and width.words[0] <= <uint64_t>INT64_MAX and (width.words[1] | width.words[2]) == 0
            if can_do:
                look = look_at(of_book, sign)
                room = min(wanted, look.count)
                if room > STACK_GROUPS:
                    groups = <Group*>malloc(room * sizeof(Group))
                if groups != NULL:
                    count = walk_groups(&look, width.words[0], wanted, groups)
        mutex_unlock(&book._mutex)
    try:
        if can_do and state != READABLE:
            refuse_read(book, state, &refusal)
        if groups == NULL:
            raise MemoryError()
        if can_do:
            return finish_groups(groups, count, price_scale, quantity_scale, number)
    finally:
        if groups != stack:
            free(groups)
    known = known_book(book, sign < 0, sign > 0, &last_update_id)
    return exact.grouped(known, side, amount_as_exact(&amount, past_int64), limit_as_object(limit), number)


cdef object limit_as_object(object limit):
    return None if limit is None else limit_of(limit)
