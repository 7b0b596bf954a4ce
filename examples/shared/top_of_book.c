/* The best prices of a shared book, exactly: top_of_book NAME MARKET

   cc -std=c99 -O2 -I../../include top_of_book.c -o top_of_book
   Prints the update id, the best bid and the best ask; exit status 1 with the reason if they cannot be read. */

#include "ldc_shared.h"

#include <stdio.h>

int main(int argument_count, char **arguments) {
    ldc_shared_book book;
    ldc_shared_view view;
    ldc_shared_level bid, ask;
    char price[24], quantity[24];
    int status;
    if (argument_count != 3) {
        fprintf(stderr, "usage: %s NAME MARKET\n", arguments[0]);
        return 2;
    }
    status = ldc_shared_open(&book, arguments[1], arguments[2]);
    if (status == LDC_SHARED_READABLE)
        status = ldc_shared_read(&book, &view, &bid, 1, &ask, 1);
    if (status != LDC_SHARED_READABLE) {
        fprintf(stderr, "%s: %s %.32s\n", arguments[2], ldc_shared_name_of(status),
                status == LDC_SHARED_SUSPENDED ? view.cause : "");
        ldc_shared_close(&book);
        return 1;
    }
    printf("%lld", (long long)view.last_update_id);
    if (view.bid_count > 0)
        printf(" bid %s %s", ldc_shared_decimal(bid.price, view.price_scale, price),
               ldc_shared_decimal(bid.quantity, view.quantity_scale, quantity));
    if (view.ask_count > 0)
        printf(" ask %s %s", ldc_shared_decimal(ask.price, view.price_scale, price),
               ldc_shared_decimal(ask.quantity, view.quantity_scale, quantity));
    printf("\n");
    ldc_shared_close(&book);
    return 0;
}
