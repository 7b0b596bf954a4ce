# Whole numbers of 192 bits, and the float nearest to a quotient of two.
#
# Rule 1: no sum over a side overflows: 50,000 levels of price x quantity are below 2**142. What could is checked.
# Rule 2: nothing here needs a type of 128 bits, which not every compiler has.

cdef extern from *:
    """
    #include <math.h>

    /* A whole number, not negative, the lowest word first. No sum over a side needs more: 50,000 x 2**126 < 2**142. */
    typedef struct { uint64_t words[3]; } ldc_wide;

    static inline uint64_t ldc_multiply(uint64_t a, uint64_t b, uint64_t *high) {
    #if defined(__SIZEOF_INT128__)
        unsigned __int128 product = (unsigned __int128)a * b;
        *high = (uint64_t)(product >> 64);
        return (uint64_t)product;
    #elif defined(_MSC_VER) && defined(_M_X64)
        return _umul128(a, b, high);
    #else
        uint64_t al = a & 0xFFFFFFFFULL, ah = a >> 32, bl = b & 0xFFFFFFFFULL, bh = b >> 32;
        uint64_t low = al * bl, middle = ah * bl + (low >> 32), other = al * bh + (middle & 0xFFFFFFFFULL);
        *high = ah * bh + (middle >> 32) + (other >> 32);
        return (other << 32) | (low & 0xFFFFFFFFULL);
    #endif
    }
    static inline void ldc_wide_set(ldc_wide *sum, uint64_t value) {
        sum->words[0] = value;
        sum->words[1] = sum->words[2] = 0;
    }
    static inline void ldc_wide_add_two(ldc_wide *sum, uint64_t low, uint64_t high) {
        uint64_t carry;
        sum->words[0] += low;
        carry = sum->words[0] < low;
        high += carry;                      /* a product's high word is below 2**64 - 1, and so is a carry's */
        sum->words[1] += high;
        sum->words[2] += sum->words[1] < high;
    }
    static inline void ldc_wide_add(ldc_wide *sum, uint64_t value) {
        ldc_wide_add_two(sum, value, 0);
    }
    static inline void ldc_wide_add_product(ldc_wide *sum, uint64_t a, uint64_t b) {
        uint64_t high, low = ldc_multiply(a, b, &high);
        ldc_wide_add_two(sum, low, high);
    }
    static inline void ldc_wide_add_wide(ldc_wide *sum, const ldc_wide *other) {
        ldc_wide_add_two(sum, other->words[0], 0);
        ldc_wide_add_two(sum, 0, other->words[1]);
        sum->words[2] += other->words[2];
    }
    static inline void ldc_wide_subtract(ldc_wide *from, const ldc_wide *other) {
        uint64_t borrow = from->words[0] < other->words[0], next;
        from->words[0] -= other->words[0];
        next = from->words[1] < other->words[1] || (from->words[1] == other->words[1] && borrow);
        from->words[1] -= other->words[1] + borrow;
        from->words[2] -= other->words[2] + next;
    }
    static inline int ldc_wide_is_zero(const ldc_wide *number) {
        return (number->words[0] | number->words[1] | number->words[2]) == 0;
    }
    static inline int ldc_wide_less(const ldc_wide *a, const ldc_wide *b) {
        if (a->words[2] != b->words[2])
            return a->words[2] < b->words[2];
        if (a->words[1] != b->words[1])
            return a->words[1] < b->words[1];
        return a->words[0] < b->words[0];
    }
    /* Multiply in place; 0 if that needs more than 192 bits. */
    static inline int ldc_wide_multiply(ldc_wide *number, uint64_t factor) {
        uint64_t high0, high1, high2;
        uint64_t low = ldc_multiply(number->words[0], factor, &high0);
        uint64_t middle = ldc_multiply(number->words[1], factor, &high1);
        uint64_t top = ldc_multiply(number->words[2], factor, &high2);
        number->words[0] = low;
        number->words[1] = middle + high0;
        high1 += number->words[1] < middle;
        number->words[2] = top + high1;
        return high2 == 0 && number->words[2] >= top;
    }
    static inline int ldc_bits64(uint64_t word) {
        int bits = 0;
    #if defined(__GNUC__)
        bits = word != 0 ? 64 - __builtin_clzll(word) : 0;
    #else
        while (word != 0) { word >>= 1; bits++; }
    #endif
        return bits;
    }
    static inline int ldc_wide_bits(const ldc_wide *number) {
        if (number->words[2] != 0)
            return 128 + ldc_bits64(number->words[2]);
        return number->words[1] != 0 ? 64 + ldc_bits64(number->words[1]) : ldc_bits64(number->words[0]);
    }
    static inline void ldc_wide_shift(ldc_wide *number, int bits) {
        while (bits >= 64) {
            number->words[2] = number->words[1];
            number->words[1] = number->words[0];
            number->words[0] = 0;
            bits -= 64;
        }
        if (bits > 0) {
            number->words[2] = number->words[2] << bits | number->words[1] >> (64 - bits);
            number->words[1] = number->words[1] << bits | number->words[0] >> (64 - bits);
            number->words[0] <<= bits;
        }
    }
    static inline double ldc_wide_rough(const ldc_wide *number) {
        return ((double)number->words[2] * 18446744073709551616.0 + (double)number->words[1]) * 18446744073709551616.0
            + (double)number->words[0];
    }
    /* The double nearest to n / d, half to even; -1 if these are too large for it: d past 128 bits, n past 185.

       A shift of one of them makes the quotient a whole number q of 55 or 56 bits and a rest. Doubles guess q, whole
       numbers correct the guess. The rest, unless it is 0, sets the last bit of q, and the conversion to a double
       rounds. The result is no subnormal number: d is below 2**128. */
    static double ldc_wide_ratio(const ldc_wide *n, const ldc_wide *d) {
        int bits_n = ldc_wide_bits(n), bits_d = ldc_wide_bits(d), shift;
        ldc_wide x = *n, y = *d, product;
        uint64_t q;
        double divisor;
        if (bits_n == 0)
            return 0.0;
        if (bits_n <= 53 && bits_d <= 53)
            return (double)n->words[0] / (double)d->words[0];
        if (bits_d > 128 || bits_n > 185)
            return -1.0;
        shift = 55 + bits_d - bits_n;
        if (shift >= 0)
            ldc_wide_shift(&x, shift);
        else
            ldc_wide_shift(&y, -shift);
        divisor = ldc_wide_rough(&y);
        q = (uint64_t)(ldc_wide_rough(&x) / divisor);
        product = y;
        ldc_wide_multiply(&product, q);
        while (ldc_wide_less(&x, &product)) {           /* the guess was too large, by less than 2**6 */
            ldc_wide over = product;
            uint64_t by;
            ldc_wide_subtract(&over, &x);
            by = (uint64_t)(ldc_wide_rough(&over) / divisor) + 1;
            q -= by;
            over = y;
            ldc_wide_multiply(&over, by);
            ldc_wide_subtract(&product, &over);
        }
        ldc_wide_subtract(&x, &product);
        while (!ldc_wide_less(&x, &y)) {                /* it was too small */
            ldc_wide_subtract(&x, &y);
            q++;
        }
        return ldexp((double)(q | (uint64_t)!ldc_wide_is_zero(&x)), -shift);
    }
    """
    ctypedef struct Wide "ldc_wide":
        uint64_t words[3]
    uint64_t multiply "ldc_multiply"(uint64_t a, uint64_t b, uint64_t* high) noexcept nogil
    void wide_set "ldc_wide_set"(Wide* number, uint64_t value) noexcept nogil
    void wide_add "ldc_wide_add"(Wide* number, uint64_t value) noexcept nogil
    void wide_add_product "ldc_wide_add_product"(Wide* number, uint64_t a, uint64_t b) noexcept nogil
    void wide_add_wide "ldc_wide_add_wide"(Wide* number, const Wide* other) noexcept nogil
    void wide_subtract "ldc_wide_subtract"(Wide* number, const Wide* other) noexcept nogil
    bint wide_is_zero "ldc_wide_is_zero"(const Wide* number) noexcept nogil
    bint wide_less "ldc_wide_less"(const Wide* a, const Wide* b) noexcept nogil
    bint wide_multiply "ldc_wide_multiply"(Wide* number, uint64_t factor) noexcept nogil
    double wide_ratio "ldc_wide_ratio"(const Wide* n, const Wide* d) noexcept nogil


cdef object wide_object(const Wide* number):
    if number.words[1] == 0 and number.words[2] == 0:
        return number.words[0]
    return number.words[0] | <object>number.words[1] << 64 | <object>number.words[2] << 128


cdef inline Wide power_of_ten(int32_t decimals) noexcept nogil:
    """10**decimals, of at most 36."""
    cdef Wide power
    wide_set(&power, POW10[min(decimals, 18)])
    if decimals > 18:
        wide_multiply(&power, POW10[decimals - 18])
    return power


cdef inline double sum_float(const Wide* units, int32_t decimals) except? -1.0:
    cdef Wide power = power_of_ten(decimals)
    cdef double value = wide_ratio(units, &power)
    if value < 0:
        return exact.sum_as(wide_object(units), decimals, float)
    return value


cdef inline double ratio_float(const Wide* numerator, const Wide* denominator) except? -1.0:
    cdef double value = wide_ratio(numerator, denominator)
    if value < 0:
        return wide_object(numerator) / wide_object(denominator)
    return value
