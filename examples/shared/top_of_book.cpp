// The best prices of a shared book, exactly: top_of_book NAME MARKET
//
// c++ -std=c++17 -O2 -I../../include top_of_book.cpp -o top_of_book
// Prints the update id, the best bid and the best ask; exit status 1 with the reason if they cannot be read.

#include "ldc_shared.h"

#include <iostream>
#include <string>

namespace {

// A shared book that is closed with its scope.
class Book {
public:
    Book(const char *share, const char *market) : status_(ldc_shared_open(&book_, share, market)) {}
    ~Book() { ldc_shared_close(&book_); }
    Book(const Book &) = delete;
    Book &operator=(const Book &) = delete;

    int read(ldc_shared_view &view, ldc_shared_level &bid, ldc_shared_level &ask) {
        return status_ == LDC_SHARED_READABLE ? ldc_shared_read(&book_, &view, &bid, 1, &ask, 1) : status_;
    }

private:
    ldc_shared_book book_;
    int status_;
};

std::string exact(const ldc_shared_level &level, const ldc_shared_view &view) {
    char price[24], quantity[24];
    return std::string(ldc_shared_decimal(level.price, view.price_scale, price)) + " "
        + ldc_shared_decimal(level.quantity, view.quantity_scale, quantity);
}

}  // namespace

int main(int argument_count, char **arguments) {
    if (argument_count != 3) {
        std::cerr << "usage: " << arguments[0] << " NAME MARKET\n";
        return 2;
    }
    Book book(arguments[1], arguments[2]);
    ldc_shared_view view{};
    ldc_shared_level bid{}, ask{};
    const int status = book.read(view, bid, ask);
    if (status != LDC_SHARED_READABLE) {
        std::cerr << arguments[2] << ": " << ldc_shared_name_of(status) << "\n";
        return 1;
    }
    std::cout << view.last_update_id;
    if (view.bid_count > 0)
        std::cout << " bid " << exact(bid, view);
    if (view.ask_count > 0)
        std::cout << " ask " << exact(ask, view);
    std::cout << "\n";
    return 0;
}
