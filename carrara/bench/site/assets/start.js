"use strict";

startPages();
