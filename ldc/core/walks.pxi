# Walks over the levels of a side, best first: sums, fills, groups. `ldc.analytics.exact` is their definition.
#
# Rule: a walk takes runs of levels (`Run`): those of a side, or any plain array of scaled levels. It knows no book and
#       no lock, makes no Python object, and cannot fail. Over a side it is called under the book's lock.

cdef struct Run:
    # Levels side by side, best first. A key is the price for asks, and the negated price for bids.
    const int64_t* keys
    const int64_t* quantities
    int32_t count

cdef struct SideLook:
    # A side as a walk sees it: the levels inside its horizon. Of a book it is valid only under the book's lock.
    const BookSide* side        # NULL: `run` is all there is
    Run run
    int32_t count               # levels inside the horizon
    int64_t sign                # -1: bids, 1: asks
    bint has_horizon
    int64_t horizon_key

cdef struct Taken:
    Wide quantity               # of the whole levels
    Wide notional
    int32_t levels              # whole ones, and the last one if it is taken in part
    int64_t worst_key           # meaningless if `levels` is 0
    bint is_partial
    bint is_complete

cdef struct Bound:
    # A price as a fraction of units, limit / factor; `is_below_zero` instead of a negative one.
    Wide limit
    uint64_t factor
    bint is_below_zero

cdef struct Sums:
    Wide quantity
    Wide notional
    int32_t levels
    bint is_complete

cdef struct Group:
    uint64_t price
    Wide quantity


cdef inline SideLook look_at(const BookSide* side, int64_t sign) noexcept nogil:
    """Under the lock."""
    cdef SideLook look
    look.side = side
    look.count = side.known_count
    look.sign = sign
    look.has_horizon = side.has_horizon
    look.horizon_key = side.horizon_key
    look.run.count = 0
    look.run.keys = look.run.quantities = NULL
    return look


cdef inline bint next_run(const SideLook* look, int32_t* index, int32_t* seen, Run* run) noexcept nogil:
    """Return the next levels, those inside the horizon only; False: there are none."""
    cdef const Slot* slot
    if seen[0] >= look.count:
        return False
    if look.side == NULL:
        run[0] = look.run
    else:
        slot = &look.side.slots[index[0]]
        run.keys = slot.block.keys
        run.quantities = slot.block.quantities
        run.count = slot.count
    run.count = min(run.count, look.count - seen[0])
    seen[0] += run.count
    index[0] += 1
    return run.count > 0


cdef void walk_quantity(const SideLook* look, Wide wanted, bint has_fraction, Taken* taken) noexcept nogil:
    """Take a quantity from the best level on."""
    cdef Run run
    cdef int32_t index = 0, seen = 0, at
    cdef uint64_t left = wanted.words[0], quantity
    cdef bint is_endless = wanted.words[1] != 0 or wanted.words[2] != 0
    wide_set(&taken.quantity, 0)
    wide_set(&taken.notional, 0)
    taken.levels = 0
    taken.is_partial = taken.is_complete = False
    if is_endless:
        walk_wide_quantity(look, wanted, has_fraction, taken)
        return
    while next_run(look, &index, &seen, &run):
        for at in range(run.count):
            quantity = run.quantities[at]
            taken.levels += 1
            taken.worst_key = run.keys[at]
            if quantity > left:
                taken.is_partial = taken.is_complete = True
                return
            left -= quantity
            wide_add(&taken.quantity, quantity)
            wide_add_product(&taken.notional, <uint64_t>(look.sign * run.keys[at]), quantity)
            if left == 0 and not has_fraction:
                taken.is_complete = True
                return


cdef void walk_wide_quantity(const SideLook* look, Wide wanted, bint has_fraction, Taken* taken) noexcept nogil:
    """The same for a quantity past 64 bits."""
    cdef Run run
    cdef Wide size
    cdef int32_t index = 0, seen = 0, at
    while next_run(look, &index, &seen, &run):
        for at in range(run.count):
            taken.levels += 1
            taken.worst_key = run.keys[at]
            wide_set(&size, run.quantities[at])
            if wide_less(&wanted, &size):
                taken.is_partial = taken.is_complete = True
                return
            wide_subtract(&wanted, &size)
            wide_add_wide(&taken.quantity, &size)
            wide_add_product(&taken.notional, <uint64_t>(look.sign * run.keys[at]), size.words[0])
            if wide_is_zero(&wanted) and not has_fraction:
                taken.is_complete = True
                return


cdef void walk_notional(const SideLook* look, Wide left, bint has_fraction, Taken* taken) noexcept nogil:
    """Take the worth of a notional from the best level on."""
    cdef Run run
    cdef Wide size
    cdef int32_t index = 0, seen = 0, at
    wide_set(&taken.quantity, 0)
    wide_set(&taken.notional, 0)
    taken.levels = 0
    taken.is_partial = taken.is_complete = False
    while next_run(look, &index, &seen, &run):
        for at in range(run.count):
            taken.levels += 1
            taken.worst_key = run.keys[at]
            wide_set(&size, 0)
            wide_add_product(&size, <uint64_t>(look.sign * run.keys[at]), run.quantities[at])
            if wide_less(&left, &size):
                taken.is_partial = taken.is_complete = True
                return
            wide_subtract(&left, &size)
            wide_add(&taken.quantity, run.quantities[at])
            wide_add_wide(&taken.notional, &size)
            if wide_is_zero(&left) and not has_fraction:
                taken.is_complete = True
                return


cdef inline bint bound_has(const Bound* bound, int64_t sign, int64_t key) noexcept nogil:
    """Whether a price is not past a bound."""
    cdef Wide price
    if bound.is_below_zero:
        return sign < 0
    wide_set(&price, 0)
    wide_add_product(&price, <uint64_t>(sign * key), bound.factor)
    return not (wide_less(&bound.limit, &price) if sign > 0 else wide_less(&price, &bound.limit))


cdef inline bint bound_is_known(const Bound* bound, const SideLook* look) noexcept nogil:
    """Whether the side is complete up to a bound."""
    cdef Wide horizon
    if not look.has_horizon:
        return True
    if bound.is_below_zero:
        return look.sign > 0
    wide_set(&horizon, 0)
    wide_add_product(&horizon, <uint64_t>(look.sign * look.horizon_key), bound.factor)
    return not (wide_less(&horizon, &bound.limit) if look.sign > 0 else wide_less(&bound.limit, &horizon))


cdef void walk_to_bound(const SideLook* look, const Bound* bound, Sums* sums) noexcept nogil:
    """Sum up the levels up to a price, inclusive."""
    cdef Run run
    cdef int32_t index = 0, seen = 0, at
    cdef bint all_of_run
    wide_set(&sums.quantity, 0)
    wide_set(&sums.notional, 0)
    sums.levels = 0
    sums.is_complete = bound_is_known(bound, look)
    while next_run(look, &index, &seen, &run):
        all_of_run = bound_has(bound, look.sign, run.keys[run.count - 1])
        for at in range(run.count):
            if not all_of_run and not bound_has(bound, look.sign, run.keys[at]):
                return
            wide_add(&sums.quantity, run.quantities[at])
            wide_add_product(&sums.notional, <uint64_t>(look.sign * run.keys[at]), run.quantities[at])
            sums.levels += 1


cdef void walk_levels(const SideLook* look, int32_t limit, Wide* quantity) noexcept nogil:
    """Sum up the quantities of the best levels."""
    cdef Run run
    cdef int32_t index = 0, seen = 0, at, left = limit
    wide_set(quantity, 0)
    while left > 0 and next_run(look, &index, &seen, &run):
        for at in range(min(run.count, left)):
            wide_add(quantity, run.quantities[at])
        left -= run.count


cdef int32_t walk_groups(const SideLook* look, uint64_t step, int32_t limit, Group* groups) noexcept nogil:
    """Sum up the quantities by multiples of a step; return how many groups, those that the horizon cuts left out."""
    cdef Run run
    cdef int32_t index = 0, seen = 0, at, count = 0
    cdef uint64_t price, edge = 0, horizon = <uint64_t>(look.sign * look.horizon_key) if look.has_horizon else 0
    while next_run(look, &index, &seen, &run):
        for at in range(run.count):
            price = <uint64_t>(look.sign * run.keys[at])
            if count == 0 or (price < edge if look.sign < 0 else price > edge):
                if count == limit:
                    return count
                edge = price // step * step
                if look.sign > 0 and edge != price:
                    edge += step        # below 2**64: price and step are below 2**63
                if look.has_horizon and (edge < horizon if look.sign < 0 else edge > horizon):
                    return count
                groups[count].price = edge
                wide_set(&groups[count].quantity, 0)
                count += 1
            wide_add(&groups[count - 1].quantity, run.quantities[at])
    return count
