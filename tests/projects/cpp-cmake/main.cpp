#include "shapes.hpp"
#include <cstdlib>
#include <iostream>
int main(int, char **arguments) {
  std::cout << area(std::atoi(arguments[1]), std::atoi(arguments[2])) << std::endl;
}
