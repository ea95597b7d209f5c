package process

// PurposeOf tells the purpose from the arguments.
var PurposeOf = purposeOf
