/* The groups of checks, one function a file. main.c runs them in this order. */
#ifndef TFAST_TESTS_GROUPS_H
#define TFAST_TESTS_GROUPS_H

void check_settings(void);
void check_runtime(void);
void check_linear(void);
void check_integers(void);
void check_blocks(void);
void check_products(void);
void check_search(void);
void check_attention(void);
void check_key_values(void);
void check_rows(void);
void check_copies(void);
void check_layers(void);
void check_recurrent(void);

#endif
