#include <stdio.h>
#include "hello.h"
int main(void) { puts(GREETING); return 0; }
