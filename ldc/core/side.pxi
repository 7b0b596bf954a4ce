# One side of a book: its levels, best first, in sorted blocks of 64.
#
# Rule 1: a side knows keys and quantities, both int64. A key is the price for asks and the negated price for bids,
#         so that "better" is always "smaller" and one code serves both sides.
# Rule 2: nothing here needs Python, and nothing that changes a side in place can fail: a change that finds no memory
#         drops levels at the far end instead, and the horizon says so. What can fail (`side_fill`) builds a new side.
# Rule 3: no function here is called without the book's lock, or before the side is part of a book.
#
# Why blocks. Half of all real updates touch the best ten levels, but the tail reaches past rank 1,000, and books of
# 15,000 levels occur. One flat array moves half of itself for each insertion at its middle; a tree of nodes chases
# a pointer a level. In blocks of 64 an insertion moves at most 1 kB, a search is six compares without a branch
# inside one block, and updates, which arrive sorted, mostly stay in the block of the one before.
#
# Memory. A block is 1,024 bytes for 64 levels. Neighbours that together fit in BLOCK_FILL levels are merged, so that
# two adjacent blocks hold more than 48 of 128: in the worst case 42 bytes a level, after a snapshot 21, and 23 after
# long random change.

cdef enum:
    BLOCK_LEVELS = 64
    BLOCK_FILL = 48     # of a block after a snapshot; and neighbours with no more than this together become one
    SLOTS_MIN = 4       # a directory is never shrunk below this
    SIDE_LEVELS_LIMIT = 50000   # levels of a side; the worst beyond it are dropped, and the horizon moves with them

cdef struct Block:
    # Keys apart from quantities: a search reads only keys. Unused keys hold INT64_MAX, so that a search needs no count.
    int64_t keys[BLOCK_LEVELS]
    int64_t quantities[BLOCK_LEVELS]

cdef struct Slot:
    int64_t first_key   # of the block; meaningless in slot 0, which takes every key before slot 1
    Block* block        # owned
    int32_t count       # at least 1, except in the only slot of an empty side

cdef struct BookSide:
    Slot* slots         # owned; NULL only in a book that is not loaded
    int32_t slot_count
    int32_t slot_capacity
    int32_t level_count
    int32_t known_count         # levels with key <= horizon_key
    int32_t known_when_filled   # what known_count was when the levels came from a snapshot
    bint has_horizon            # False: complete without end
    int64_t horizon_key         # INT64_MAX when there is none
    int64_t dropped             # levels dropped at the far end, ever

cdef struct Level:
    int64_t price
    int64_t quantity


cdef inline bint side_is_short(const BookSide* side) noexcept nogil:
    """Fewer than half of the levels that a snapshot brought are still inside the horizon."""
    return side.has_horizon and 2 * <int64_t>side.known_count < side.known_when_filled


cdef inline bint has_no_known_level(const BookSide* side) noexcept nogil:
    """No level is left inside the horizon: the market has moved past it."""
    return side.has_horizon and side.known_count == 0


cdef void side_blank(BookSide* side) noexcept nogil:
    """Make it the side of a book without a snapshot, without freeing anything. `dropped` stays."""
    side.slots = NULL
    side.slot_count = 0
    side.slot_capacity = 0
    side.level_count = 0
    side.known_count = 0
    side.known_when_filled = 0
    side.has_horizon = False
    side.horizon_key = INT64_MAX


cdef void side_release(BookSide* side) noexcept nogil:
    """Free all memory and blank the side."""
    cdef int32_t index
    for index in range(side.slot_count):
        free(side.slots[index].block)
    free(side.slots)
    side_blank(side)


cdef size_t side_bytes(const BookSide* side) noexcept nogil:
    return side.slot_capacity * sizeof(Slot) + side.slot_count * sizeof(Block)


cdef inline void block_blank(Block* block, int32_t start) noexcept nogil:
    cdef int32_t index
    for index in range(start, BLOCK_LEVELS):
        block.keys[index] = INT64_MAX


cdef int side_fill(BookSide* side, const Level* levels, int32_t count, int64_t sign) except -1 nogil:
    """Build a side from levels whose keys (sign x price) rise strictly. Raise MemoryError, leaving nothing behind.

    What the side struct held before is overwritten. It has no horizon yet: `side_set_horizon` comes after.
    """
    cdef int32_t blocks = max(1, (count + BLOCK_FILL - 1) // BLOCK_FILL)
    cdef int32_t index, filled = 0, here, at
    cdef Block* block
    side.dropped = 0
    side_blank(side)
    side.slots = <Slot*>malloc(blocks * sizeof(Slot))
    if side.slots == NULL:
        raise MemoryError()
    side.slot_capacity = blocks
    for index in range(blocks):
        block = <Block*>malloc(sizeof(Block))
        if block == NULL:
            side_release(side)
            raise MemoryError()
        here = min(count - filled, BLOCK_FILL)
        for at in range(here):
            block.keys[at] = sign * levels[filled + at].price
            block.quantities[at] = levels[filled + at].quantity
        block_blank(block, here)
        side.slots[index] = Slot(first_key=block.keys[0], block=block, count=here)
        side.slot_count = index + 1
        filled += here
    side.level_count = count
    side.known_count = count
    side.known_when_filled = count
    return 0


cdef void side_set_horizon(BookSide* side, int64_t key) noexcept nogil:
    """Declare that nothing is known past `key`, which is not better than any horizon set before."""
    cdef int32_t index, at, known = 0
    side.has_horizon = True
    side.horizon_key = key
    for index in range(side.slot_count):
        for at in range(side.slots[index].count):
            known += side.slots[index].block.keys[at] <= key
    side.known_count = known


cdef inline int64_t side_worst_key(const BookSide* side) noexcept nogil:
    cdef const Slot* last = &side.slots[side.slot_count - 1]
    return last.block.keys[last.count - 1]


cdef void side_cut(BookSide* side, int32_t keep) noexcept nogil:
    """Drop the worst levels beyond `keep` (at least 1) and move the horizon with them."""
    cdef Slot* last
    cdef int32_t surplus
    cdef int64_t worst
    while side.level_count > keep:
        last = &side.slots[side.slot_count - 1]
        surplus = side.level_count - keep
        if surplus >= last.count:
            surplus = last.count
            free(last.block)
            side.slot_count -= 1
        else:
            last.count -= surplus
            block_blank(last.block, last.count)
        side.level_count -= surplus
        side.dropped += surplus
    worst = side_worst_key(side)
    if not side.has_horizon or worst <= side.horizon_key:
        # Everything kept is at or before the new horizon.
        side.has_horizon = True
        side.horizon_key = worst
        side.known_count = side.level_count
    if side.slot_count > 1:
        side_merge(side, side.slot_count - 2)


# ----------------------------------------------------------------------------------------------- finding a place

cdef inline int32_t side_locate(const BookSide* side, int32_t hint, int64_t key) noexcept nogil:
    """Return the slot whose block holds `key`, or would; `hint` is where the level before was."""
    cdef const Slot* slots = side.slots
    cdef int32_t low, high, middle
    if hint == 0 or slots[hint].first_key <= key:
        if hint + 1 == side.slot_count or key < slots[hint + 1].first_key:
            return hint
        low = hint + 1
        if low + 1 == side.slot_count or key < slots[low + 1].first_key:
            return low
        high = side.slot_count
    else:
        low = 0
        high = hint
    while high - low > 1:
        middle = (low + high) >> 1
        if slots[middle].first_key <= key:
            low = middle
        else:
            high = middle
    return low


cdef inline int32_t block_find(const int64_t* keys, int64_t key) noexcept nogil:
    """Return how many of the 64 keys are before `key`.

    Two rounds of eight compares that do not wait for each other, and no branch. A binary search has seven rounds that
    each wait for the one before; and a branch guessed wrong costs more than all of it.
    """
    cdef int32_t eights = (
        (keys[7] < key) + (keys[15] < key) + (keys[23] < key) + (keys[31] < key)
        + (keys[39] < key) + (keys[47] < key) + (keys[55] < key))
    cdef const int64_t* here = keys + 8 * eights
    return 8 * eights + (
        (here[0] < key) + (here[1] < key) + (here[2] < key) + (here[3] < key)
        + (here[4] < key) + (here[5] < key) + (here[6] < key) + (here[7] < key))


# ----------------------------------------------------------------------------------------------- changing levels

cdef inline void side_remove_slot(BookSide* side, int32_t index) noexcept nogil:
    """Free a block and close the gap in the directory; memory that is no longer needed goes back."""
    cdef Slot* smaller
    free(side.slots[index].block)
    side.slot_count -= 1
    memmove(&side.slots[index], &side.slots[index + 1], (side.slot_count - index) * sizeof(Slot))
    if side.slot_capacity > SLOTS_MIN and 4 * side.slot_count <= side.slot_capacity:
        smaller = <Slot*>realloc(side.slots, (side.slot_capacity // 2) * sizeof(Slot))
        if smaller != NULL:
            side.slots = smaller
            side.slot_capacity //= 2


cdef bint side_merge(BookSide* side, int32_t index) noexcept nogil:
    """Join the blocks at `index` and behind it if they are small enough together."""
    cdef Slot* left = &side.slots[index]
    cdef Slot* right = left + 1
    if left.count + right.count > BLOCK_FILL:
        return False
    memcpy(&left.block.keys[left.count], right.block.keys, right.count * sizeof(int64_t))
    memcpy(&left.block.quantities[left.count], right.block.quantities, right.count * sizeof(int64_t))
    left.count += right.count
    side_remove_slot(side, index + 1)
    return True


cdef bint side_split(BookSide* side, int32_t index) noexcept nogil:
    """Move the worse half of a full block into a new one behind it. False, and nothing changed: no memory."""
    cdef Slot* slots
    cdef Slot* left
    cdef Block* block
    cdef int32_t half = BLOCK_LEVELS // 2
    cdef int32_t capacity
    if side.slot_count == side.slot_capacity:
        capacity = max(SLOTS_MIN, side.slot_capacity + side.slot_capacity // 2)
        slots = <Slot*>realloc(side.slots, capacity * sizeof(Slot))
        if slots == NULL:
            return False
        side.slots = slots
        side.slot_capacity = capacity
    block = <Block*>malloc(sizeof(Block))
    if block == NULL:
        return False
    left = &side.slots[index]
    memcpy(block.keys, &left.block.keys[half], half * sizeof(int64_t))
    memcpy(block.quantities, &left.block.quantities[half], half * sizeof(int64_t))
    block_blank(block, half)
    block_blank(left.block, half)
    memmove(left + 2, left + 1, (side.slot_count - index - 1) * sizeof(Slot))
    left.count = half
    left[1] = Slot(first_key=block.keys[0], block=block, count=half)
    side.slot_count += 1
    # A full block may have had small neighbours; what is half of it has not.
    if index + 2 < side.slot_count:
        side_merge(side, index + 1)
    if index > 0:
        side_merge(side, index - 1)
    return True


cdef void side_remove(BookSide* side, int32_t index, int32_t at) noexcept nogil:
    cdef Slot* slot = &side.slots[index]
    cdef int64_t* keys = slot.block.keys
    cdef int64_t* quantities = slot.block.quantities
    cdef size_t behind = (slot.count - at - 1) * sizeof(int64_t)
    side.known_count -= keys[at] <= side.horizon_key
    side.level_count -= 1
    memmove(&keys[at], &keys[at + 1], behind)
    memmove(&quantities[at], &quantities[at + 1], behind)
    slot.count -= 1
    keys[slot.count] = INT64_MAX
    if slot.count == 0:
        if side.slot_count > 1:
            side_remove_slot(side, index)
        return
    slot.first_key = keys[0]
    if index + 1 < side.slot_count and side_merge(side, index):
        return
    if index > 0:
        side_merge(side, index - 1)


cdef void side_insert(BookSide* side, int32_t index, int32_t at, int64_t key, int64_t quantity) noexcept nogil:
    cdef Slot* slot
    cdef size_t behind
    while side.slots[index].count == BLOCK_LEVELS:
        if not side_split(side, index):
            # No memory: levels at the far end are dropped. A block that is halved always has room.
            if side.slot_count > 1:
                side_cut(side, side.level_count - side.slots[side.slot_count - 1].count)
            else:
                side_cut(side, BLOCK_LEVELS // 2)
        index = side_locate(side, 0, key)
        at = block_find(side.slots[index].block.keys, key)
    slot = &side.slots[index]
    behind = (slot.count - at) * sizeof(int64_t)
    memmove(&slot.block.keys[at + 1], &slot.block.keys[at], behind)
    memmove(&slot.block.quantities[at + 1], &slot.block.quantities[at], behind)
    slot.block.keys[at] = key
    slot.block.quantities[at] = quantity
    slot.count += 1
    slot.first_key = slot.block.keys[0]
    side.level_count += 1
    side.known_count += key <= side.horizon_key


cdef void side_commit(BookSide* side, const Level* levels, int32_t count, int64_t sign) noexcept nogil:
    """Set the quantities of `count` prices in the order given; zero removes. Cannot fail.

    Any order is right, a sorted one in either direction is fast. O(1) a level that stays in the block of the one
    before, O(log blocks) for one that does not.
    """
    cdef int32_t index = 0, number, at
    cdef int64_t key, quantity
    cdef Slot* slot
    cdef bint found
    for number in range(count):
        key = sign * levels[number].price
        quantity = levels[number].quantity
        index = side_locate(side, index, key)
        slot = &side.slots[index]
        at = block_find(slot.block.keys, key)
        # `at < count` first: a price of 2**63 - 1 equals the filler of unused keys.
        found = at < slot.count and slot.block.keys[at] == key
        # The quantity decides first: it was known before the search began, and mostly says what will be found.
        if quantity != 0:
            if found:
                slot.block.quantities[at] = quantity
                continue
            side_insert(side, index, at, key, quantity)
        else:
            if not found:
                continue
            side_remove(side, index, at)
        if index >= side.slot_count:
            index = side.slot_count - 1


cdef int32_t side_best_levels(
    const BookSide* side, int32_t limit, bint known_only, Level* out, int64_t sign
) noexcept nogil:
    """Copy the best levels, at most `limit`, as prices and quantities; return how many."""
    cdef int32_t wanted = side.known_count if known_only else side.level_count
    cdef int32_t index = 0, at, here, copied = 0
    cdef const Block* block
    wanted = min(wanted, limit)
    while copied < wanted:
        block = side.slots[index].block
        here = min(side.slots[index].count, wanted - copied)
        for at in range(here):
            out[copied + at].price = sign * block.keys[at]
            out[copied + at].quantity = block.quantities[at]
        copied += here
        index += 1
    return copied


cdef const char* side_problem(const BookSide* side) noexcept nogil:
    """Return the invariant that is broken, in words, or NULL. O(levels)."""
    cdef int32_t index, at, levels = 0, known = 0
    cdef const Slot* slot
    cdef int64_t before = INT64_MIN
    if side.slot_count < 1 or side.slot_count > side.slot_capacity:
        return b"slot_count outside 1..slot_capacity"
    for index in range(side.slot_count):
        slot = &side.slots[index]
        if slot.count > BLOCK_LEVELS or slot.count < (1 if side.slot_count > 1 else 0):
            return b"the count of a block is out of range"
        if index > 0 and slot.first_key != slot.block.keys[0]:
            return b"first_key is not the first key of its block"
        if index > 0 and slot.count + side.slots[index - 1].count <= BLOCK_FILL:
            return b"two neighbours should be one block"
        for at in range(slot.count):
            if (levels > 0 and slot.block.keys[at] <= before) or slot.block.quantities[at] <= 0:
                return b"keys do not rise strictly, or a quantity is not positive"
            before = slot.block.keys[at]
            known += before <= side.horizon_key
            levels += 1
        for at in range(slot.count, BLOCK_LEVELS):
            if slot.block.keys[at] != INT64_MAX:
                return b"an unused key is not INT64_MAX"
    if levels != side.level_count:
        return b"level_count is wrong"
    if known != side.known_count:
        return b"known_count is wrong"
    if not side.has_horizon and side.horizon_key != INT64_MAX:
        return b"a horizon that is not there has a key"
    return NULL
