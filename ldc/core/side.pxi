# One side of a book: its levels, best first, in sorted blocks of 64.
#
# Rule 1: a ladder knows keys and quantities, both int64. A key is the price for asks and the negated price for bids,
#         so that "better" is always "smaller" and one code serves both sides.
# Rule 2: nothing here needs Python, and nothing that changes a ladder in place can fail: a change that finds no memory
#         gives up levels at the far end instead, and the horizon says so. What can fail (`ladder_fill`) builds anew.
# Rule 3: no function here is called without the book's lock, or before the ladder is part of a book.
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
    SIDE_LEVELS_LIMIT = 50000   # that a book holds on a side; the worst beyond it are dropped, and the horizon tells

cdef struct Block:
    # Keys apart from quantities: a search reads only keys. Unused keys hold INT64_MAX, so that a search needs no count.
    int64_t keys[BLOCK_LEVELS]
    int64_t quantities[BLOCK_LEVELS]

cdef struct Slot:
    int64_t first_key   # of the block; meaningless in slot 0, which takes every key before slot 1
    Block* block        # owned
    int32_t count       # at least 1, except in the only slot of an empty ladder

cdef struct Ladder:
    Slot* slots         # owned; NULL only in a book that is not loaded
    int32_t slot_count
    int32_t slot_capacity
    int32_t level_count
    int32_t known_count         # levels with key <= horizon_key
    int32_t known_when_filled   # what known_count was when the levels came from a snapshot
    bint has_horizon            # False: complete without end
    int64_t horizon_key         # INT64_MAX when there is none
    int64_t dropped             # levels given up at the far end, ever

cdef struct Level:
    int64_t price
    int64_t quantity


cdef inline bint ladder_is_short(const Ladder* ladder) noexcept nogil:
    """Fewer than half of the levels that a snapshot brought are still inside the horizon."""
    return ladder.has_horizon and 2 * <int64_t>ladder.known_count < ladder.known_when_filled


cdef void ladder_blank(Ladder* ladder) noexcept nogil:
    """Make it the ladder of a book without a snapshot, without freeing anything. `dropped` stays."""
    ladder.slots = NULL
    ladder.slot_count = 0
    ladder.slot_capacity = 0
    ladder.level_count = 0
    ladder.known_count = 0
    ladder.known_when_filled = 0
    ladder.has_horizon = False
    ladder.horizon_key = INT64_MAX


cdef void ladder_release(Ladder* ladder) noexcept nogil:
    """Free all memory and blank the ladder."""
    cdef int32_t index
    for index in range(ladder.slot_count):
        free(ladder.slots[index].block)
    free(ladder.slots)
    ladder_blank(ladder)


cdef size_t ladder_bytes(const Ladder* ladder) noexcept nogil:
    return ladder.slot_capacity * sizeof(Slot) + ladder.slot_count * sizeof(Block)


cdef inline void block_blank(Block* block, int32_t start) noexcept nogil:
    cdef int32_t index
    for index in range(start, BLOCK_LEVELS):
        block.keys[index] = INT64_MAX


cdef int ladder_fill(Ladder* ladder, const Level* levels, int32_t count, int64_t sign) except -1 nogil:
    """Build a ladder from levels whose keys (sign x price) rise strictly. Raise MemoryError, leaving nothing behind.

    What the ladder struct held before is overwritten. It has no horizon yet: `ladder_set_horizon` comes after.
    """
    cdef int32_t blocks = max(1, (count + BLOCK_FILL - 1) // BLOCK_FILL)
    cdef int32_t index, filled = 0, here, at
    cdef Block* block
    ladder.dropped = 0
    ladder_blank(ladder)
    ladder.slots = <Slot*>malloc(blocks * sizeof(Slot))
    if ladder.slots == NULL:
        raise MemoryError()
    ladder.slot_capacity = blocks
    for index in range(blocks):
        block = <Block*>malloc(sizeof(Block))
        if block == NULL:
            ladder_release(ladder)
            raise MemoryError()
        here = min(count - filled, BLOCK_FILL)
        for at in range(here):
            block.keys[at] = sign * levels[filled + at].price
            block.quantities[at] = levels[filled + at].quantity
        block_blank(block, here)
        ladder.slots[index] = Slot(first_key=block.keys[0], block=block, count=here)
        ladder.slot_count = index + 1
        filled += here
    ladder.level_count = count
    ladder.known_count = count
    ladder.known_when_filled = count
    return 0


cdef void ladder_set_horizon(Ladder* ladder, int64_t key) noexcept nogil:
    """Declare that nothing is known past `key`, which is not better than any horizon set before."""
    cdef int32_t index, at, known = 0
    ladder.has_horizon = True
    ladder.horizon_key = key
    for index in range(ladder.slot_count):
        for at in range(ladder.slots[index].count):
            known += ladder.slots[index].block.keys[at] <= key
    ladder.known_count = known


cdef inline int64_t ladder_worst_key(const Ladder* ladder) noexcept nogil:
    cdef const Slot* last = &ladder.slots[ladder.slot_count - 1]
    return last.block.keys[last.count - 1]


cdef void ladder_cut(Ladder* ladder, int32_t keep) noexcept nogil:
    """Give up the worst levels beyond `keep` (at least 1) and let the horizon tell."""
    cdef Slot* last
    cdef int32_t surplus
    cdef int64_t worst
    while ladder.level_count > keep:
        last = &ladder.slots[ladder.slot_count - 1]
        surplus = ladder.level_count - keep
        if surplus >= last.count:
            surplus = last.count
            free(last.block)
            ladder.slot_count -= 1
        else:
            last.count -= surplus
            block_blank(last.block, last.count)
        ladder.level_count -= surplus
        ladder.dropped += surplus
    worst = ladder_worst_key(ladder)
    if not ladder.has_horizon or worst <= ladder.horizon_key:
        # Everything kept is at or before the new horizon.
        ladder.has_horizon = True
        ladder.horizon_key = worst
        ladder.known_count = ladder.level_count
    if ladder.slot_count > 1:
        ladder_merge(ladder, ladder.slot_count - 2)


# ----------------------------------------------------------------------------------------------- finding a place

cdef inline int32_t ladder_locate(const Ladder* ladder, int32_t hint, int64_t key) noexcept nogil:
    """Return the slot whose block holds `key`, or would; `hint` is where the level before was."""
    cdef const Slot* slots = ladder.slots
    cdef int32_t low, high, middle
    if hint == 0 or slots[hint].first_key <= key:
        if hint + 1 == ladder.slot_count or key < slots[hint + 1].first_key:
            return hint
        low = hint + 1
        if low + 1 == ladder.slot_count or key < slots[low + 1].first_key:
            return low
        high = ladder.slot_count
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

cdef inline void ladder_remove_slot(Ladder* ladder, int32_t index) noexcept nogil:
    """Free a block and close the gap in the directory; memory that is no longer needed goes back."""
    cdef Slot* smaller
    free(ladder.slots[index].block)
    ladder.slot_count -= 1
    memmove(&ladder.slots[index], &ladder.slots[index + 1], (ladder.slot_count - index) * sizeof(Slot))
    if ladder.slot_capacity > SLOTS_MIN and 4 * ladder.slot_count <= ladder.slot_capacity:
        smaller = <Slot*>realloc(ladder.slots, (ladder.slot_capacity // 2) * sizeof(Slot))
        if smaller != NULL:
            ladder.slots = smaller
            ladder.slot_capacity //= 2


cdef bint ladder_merge(Ladder* ladder, int32_t index) noexcept nogil:
    """Join the blocks at `index` and behind it if they are small enough together."""
    cdef Slot* left = &ladder.slots[index]
    cdef Slot* right = left + 1
    if left.count + right.count > BLOCK_FILL:
        return False
    memcpy(&left.block.keys[left.count], right.block.keys, right.count * sizeof(int64_t))
    memcpy(&left.block.quantities[left.count], right.block.quantities, right.count * sizeof(int64_t))
    left.count += right.count
    ladder_remove_slot(ladder, index + 1)
    return True


cdef bint ladder_split(Ladder* ladder, int32_t index) noexcept nogil:
    """Move the worse half of a full block into a new one behind it. False, and nothing changed: no memory."""
    cdef Slot* slots
    cdef Slot* left
    cdef Block* block
    cdef int32_t half = BLOCK_LEVELS // 2
    cdef int32_t capacity
    if ladder.slot_count == ladder.slot_capacity:
        capacity = max(SLOTS_MIN, ladder.slot_capacity + ladder.slot_capacity // 2)
        slots = <Slot*>realloc(ladder.slots, capacity * sizeof(Slot))
        if slots == NULL:
            return False
        ladder.slots = slots
        ladder.slot_capacity = capacity
    block = <Block*>malloc(sizeof(Block))
    if block == NULL:
        return False
    left = &ladder.slots[index]
    memcpy(block.keys, &left.block.keys[half], half * sizeof(int64_t))
    memcpy(block.quantities, &left.block.quantities[half], half * sizeof(int64_t))
    block_blank(block, half)
    block_blank(left.block, half)
    memmove(left + 2, left + 1, (ladder.slot_count - index - 1) * sizeof(Slot))
    left.count = half
    left[1] = Slot(first_key=block.keys[0], block=block, count=half)
    ladder.slot_count += 1
    # A full block may have had small neighbours; what is half of it has not.
    if index + 2 < ladder.slot_count:
        ladder_merge(ladder, index + 1)
    if index > 0:
        ladder_merge(ladder, index - 1)
    return True


cdef void ladder_remove(Ladder* ladder, int32_t index, int32_t at) noexcept nogil:
    cdef Slot* slot = &ladder.slots[index]
    cdef int64_t* keys = slot.block.keys
    cdef int64_t* quantities = slot.block.quantities
    cdef size_t behind = (slot.count - at - 1) * sizeof(int64_t)
    ladder.known_count -= keys[at] <= ladder.horizon_key
    ladder.level_count -= 1
    memmove(&keys[at], &keys[at + 1], behind)
    memmove(&quantities[at], &quantities[at + 1], behind)
    slot.count -= 1
    keys[slot.count] = INT64_MAX
    if slot.count == 0:
        if ladder.slot_count > 1:
            ladder_remove_slot(ladder, index)
        return
    slot.first_key = keys[0]
    if index + 1 < ladder.slot_count and ladder_merge(ladder, index):
        return
    if index > 0:
        ladder_merge(ladder, index - 1)


cdef void ladder_insert(Ladder* ladder, int32_t index, int32_t at, int64_t key, int64_t quantity) noexcept nogil:
    cdef Slot* slot
    cdef size_t behind
    while ladder.slots[index].count == BLOCK_LEVELS:
        if not ladder_split(ladder, index):
            # No memory: the far end of the book pays for the near one. One block that is halved always has room.
            if ladder.slot_count > 1:
                ladder_cut(ladder, ladder.level_count - ladder.slots[ladder.slot_count - 1].count)
            else:
                ladder_cut(ladder, BLOCK_LEVELS // 2)
        index = ladder_locate(ladder, 0, key)
        at = block_find(ladder.slots[index].block.keys, key)
    slot = &ladder.slots[index]
    behind = (slot.count - at) * sizeof(int64_t)
    memmove(&slot.block.keys[at + 1], &slot.block.keys[at], behind)
    memmove(&slot.block.quantities[at + 1], &slot.block.quantities[at], behind)
    slot.block.keys[at] = key
    slot.block.quantities[at] = quantity
    slot.count += 1
    slot.first_key = slot.block.keys[0]
    ladder.level_count += 1
    ladder.known_count += key <= ladder.horizon_key


cdef void ladder_commit(Ladder* ladder, const Level* levels, int32_t count, int64_t sign) noexcept nogil:
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
        index = ladder_locate(ladder, index, key)
        slot = &ladder.slots[index]
        at = block_find(slot.block.keys, key)
        # `at < count` first: a price of 2**63 - 1 equals the filler of unused keys.
        found = at < slot.count and slot.block.keys[at] == key
        # The quantity decides first: it was known before the search began, and mostly says what will be found.
        if quantity != 0:
            if found:
                slot.block.quantities[at] = quantity
                continue
            ladder_insert(ladder, index, at, key, quantity)
        else:
            if not found:
                continue
            ladder_remove(ladder, index, at)
        if index >= ladder.slot_count:
            index = ladder.slot_count - 1


cdef int32_t ladder_copy(const Ladder* ladder, int32_t limit, bint known_only, Level* out, int64_t sign) noexcept nogil:
    """Copy the best levels, at most `limit`, as prices and quantities; return how many."""
    cdef int32_t wanted = ladder.known_count if known_only else ladder.level_count
    cdef int32_t index = 0, at, here, copied = 0
    cdef const Block* block
    wanted = min(wanted, limit)
    while copied < wanted:
        block = ladder.slots[index].block
        here = min(ladder.slots[index].count, wanted - copied)
        for at in range(here):
            out[copied + at].price = sign * block.keys[at]
            out[copied + at].quantity = block.quantities[at]
        copied += here
        index += 1
    return copied


cdef const char* ladder_problem(const Ladder* ladder) noexcept nogil:
    """Return the invariant that is broken, in words, or NULL. O(levels)."""
    cdef int32_t index, at, levels = 0, known = 0
    cdef const Slot* slot
    cdef int64_t before = INT64_MIN
    if ladder.slot_count < 1 or ladder.slot_count > ladder.slot_capacity:
        return b"slot_count outside 1..slot_capacity"
    for index in range(ladder.slot_count):
        slot = &ladder.slots[index]
        if slot.count > BLOCK_LEVELS or slot.count < (1 if ladder.slot_count > 1 else 0):
            return b"the count of a block is out of range"
        if index > 0 and slot.first_key != slot.block.keys[0]:
            return b"first_key is not the first key of its block"
        if index > 0 and slot.count + ladder.slots[index - 1].count <= BLOCK_FILL:
            return b"two neighbours should be one block"
        for at in range(slot.count):
            if (levels > 0 and slot.block.keys[at] <= before) or slot.block.quantities[at] <= 0:
                return b"keys do not rise strictly, or a quantity is not positive"
            before = slot.block.keys[at]
            known += before <= ladder.horizon_key
            levels += 1
        for at in range(slot.count, BLOCK_LEVELS):
            if slot.block.keys[at] != INT64_MAX:
                return b"an unused key is not INT64_MAX"
    if levels != ladder.level_count:
        return b"level_count is wrong"
    if known != ladder.known_count:
        return b"known_count is wrong"
    if not ladder.has_horizon and ladder.horizon_key != INT64_MAX:
        return b"a horizon that is not there has a key"
    return NULL
