"""Single sign-on by OpenID Connect: the provider, its ID tokens, what claims make of a person, the way of a sign-in."""
